import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { getJson, isAbort, messageOf, type Recalibration, type RecalibrationPage } from "../api";
import { count, when } from "../format";
import { Confirm } from "../parts/confirm";
import { Icon } from "../parts/icon";
import { Notice } from "../parts/notice";
import { Status } from "../parts/status";
import { linkTo } from "../router";
import { deleteRecalibration } from "../upload";

const PAGE = 25;
const TYPING_MS = 250;

interface Found {
  items: Recalibration[];
  next: string | null;
}

export function ListView() {
  const [search, setSearch] = useState("");
  const [found, setFound] = useState<Found | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [deleting, setDeleting] = useState<Recalibration | null>(null);
  const loading = useRef<AbortController | null>(null);

  const load = useCallback(async (text: string, after: Found | null) => {
    loading.current?.abort();
    const asking = new AbortController();
    loading.current = asking;
    const query = new URLSearchParams({ order: "newest", limit: String(PAGE) });
    if (text.trim()) query.set("search", text.trim());
    if (after?.next) query.set("after", after.next);
    try {
      const path = `/v1/recalibrations?${query}`;
      const page = await getJson<RecalibrationPage>(path, asking.signal);
      setFound({ items: [...(after?.items ?? []), ...page.items], next: page.next });
      setError(null);
    } catch (failure) {
      if (!isAbort(failure)) setError(messageOf(failure));
    }
  }, []);

  useEffect(() => {
    const timer = setTimeout(() => void load(search, null), search ? TYPING_MS : 0);
    return () => clearTimeout(timer);
  }, [search, load]);

  const remove = async (one: Recalibration) => {
    try {
      await deleteRecalibration(one.id);
      await load(search, null);
    } catch (failure) {
      setError(messageOf(failure));
    }
  };

  return (
    <>
      <h1>Recalibrations</h1>
      <search class="search">
        <label for="search">Search by name, tag, state, verdict or id</label>
        <span class="field">
          <Icon name="search" />
          <input
            id="search"
            type="search"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
          />
        </span>
      </search>
      {error !== null && (
        <Notice tone="bad" title="The list cannot be loaded" urgent>
          <p>{error}</p>
          <button type="button" class="button" onClick={() => void load(search, null)}>
            Try again
          </button>
        </Notice>
      )}
      <p class="visually-hidden" role="status">
        {found === null ? "Loading" : `${count(found.items.length, "recalibration")} shown`}
      </p>
      {found === null && error === null && <p class="working">Loading…</p>}
      {found?.items.length === 0 && <Empty search={search} />}
      {found !== null && found.items.length > 0 && (
        <ul class="rows">
          {found.items.map((one) => (
            <li key={one.id}>
              <a href={linkTo(one.id)}>
                <span class="title">{one.name || one.id}</span>
                <span class="hint">
                  {when(one.created)} · {count(one.batches.samples, "sample")}
                </span>
              </a>
              <Status found={one} />
              <button
                type="button"
                class="button quiet icon-only"
                aria-label={`Delete ${one.name || one.id}`}
                onClick={() => setDeleting(one)}
              >
                <Icon name="trash" />
              </button>
            </li>
          ))}
        </ul>
      )}
      {found?.next && (
        <button type="button" class="button" onClick={() => void load(search, found)}>
          Show more
        </button>
      )}
      {deleting !== null && (
        <Confirm
          title="Delete this recalibration?"
          text={`“${deleting.name || deleting.id}”, its model, its report and any data that is still stored will be gone.`}
          action="Delete"
          onConfirm={() => void remove(deleting)}
          onClose={() => setDeleting(null)}
        />
      )}
    </>
  );
}

function Empty({ search }: { search: string }) {
  if (search) {
    return (
      <div class="empty">
        <p class="title">Nothing matches “{search}”</p>
        <p class="hint">Search for a part of a name, or for “deploy”, “failed” or “running”.</p>
      </div>
    );
  }
  return (
    <div class="empty">
      <p class="title">There are no recalibrations yet</p>
      <p class="hint">You need a model as an ONNX file, and pictures from where it will work.</p>
      <a class="button primary" href="#/">
        Recalibrate a model
      </a>
    </div>
  );
}
