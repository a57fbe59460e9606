import { useEffect, useState } from "preact/hooks";
import {
  ENDED,
  events,
  getJson,
  isAbort,
  type MeasuredLayer,
  type MeasuredLayers,
  messageOf,
  Problem,
  postJson,
  type Recalibration,
} from "../api";
import { count, when } from "../format";
import { Confirm } from "../parts/confirm";
import { Icon } from "../parts/icon";
import { Notice } from "../parts/notice";
import { Status } from "../parts/status";
import { go } from "../router";
import { deleteRecalibration, uploadOf } from "../upload";
import { Failed } from "./failed";
import { Result } from "./result";
import { Resume } from "./resume";
import { Running } from "./running";
import { Sending } from "./sending";

const PAUSE_MS = 1000;

/** What the current run has measured. */
export interface Measured {
  /** The layers by name, in the order of execution. */
  layers: ReadonlyMap<string, MeasuredLayer>;
  total: number;
}

const UNMEASURED: Measured = { layers: new Map(), total: 0 };

function merged(before: Measured, { layers, total }: MeasuredLayers): Measured {
  const all = new Map(before.layers);
  for (const layer of layers) all.set(layer.name, layer);
  return { layers: all, total: total ?? all.size };
}

interface Followed {
  found: Recalibration | null;
  measured: Measured;
  /** Whether the server answers. */
  connected: boolean;
  error: Problem | null;
}

/** Follow a recalibration until it has ended, also across restarts of the server. */
function useFollowed(id: string): Followed {
  const [state, setState] = useState<Followed>({
    found: null,
    measured: UNMEASURED,
    connected: true,
    error: null,
  });
  useEffect(() => {
    const stop = new AbortController();
    const follow = async () => {
      let last: string | null = null;
      let ended = false;
      while (!ended && !stop.signal.aborted) {
        try {
          const found = await getJson<Recalibration>(`/v1/recalibrations/${id}`, stop.signal);
          setState((before) => ({ ...before, found, connected: true }));
          ended = ENDED.has(found.state);
          if (ended) return;
          const path = `/v1/recalibrations/${id}/events`;
          for await (const event of events(path, last, stop.signal)) {
            last = event.id ?? last;
            if (event.kind === "layers") {
              const some = JSON.parse(event.data) as MeasuredLayers;
              setState((before) => ({ ...before, measured: merged(before.measured, some) }));
              continue;
            }
            const next = JSON.parse(event.data) as Recalibration;
            // A run that begins, also again after an interruption, measures every layer.
            if (event.kind === "state" && next.state === "running") {
              setState((before) => ({ ...before, measured: UNMEASURED }));
            }
            // The stream begins with events from before the request above.
            if (next.updated < found.updated) continue;
            ended = ENDED.has(next.state);
            setState((before) => ({ ...before, found: next, connected: true }));
          }
        } catch (error) {
          if (isAbort(error) || stop.signal.aborted) return;
          if (error instanceof Problem && !error.retryable) {
            setState((before) => ({ ...before, error }));
            return;
          }
          setState((before) => ({ ...before, connected: false }));
          await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        }
      }
    };
    void follow();
    return () => stop.abort();
  }, [id]);
  return state;
}

export function OneView({ id }: { id: string }) {
  const { found, measured, connected, error } = useFollowed(id);
  const [round, setRound] = useState(0);
  if (error !== null) return <Missing error={error} />;
  if (found === null) {
    return (
      <>
        <h1>Recalibration</h1>
        <p class="working" role="status">
          {connected ? "Loading…" : "The server does not answer. Trying again…"}
        </p>
      </>
    );
  }
  const upload = uploadOf(id);
  return (
    <>
      <Header found={found} />
      {!connected && (
        <Notice tone="warn" title="The server does not answer" urgent>
          <p>Trying again. A restart loses nothing: the run continues afterwards.</p>
        </Notice>
      )}
      {found.state === "open" && upload && (
        <Sending key={round} upload={upload} onAgain={() => setRound(round + 1)} />
      )}
      {found.state === "open" && !upload && (
        <Resume found={found} onStarted={() => setRound(round + 1)} />
      )}
      {["sealed", "queued", "running"].includes(found.state) && (
        <Running found={found} measured={measured} />
      )}
      {found.state === "succeeded" && <Result found={found} />}
      {found.state === "failed" && <Failed found={found} />}
      {found.state === "cancelled" && (
        <Notice tone="info" title="This recalibration was cancelled">
          <p>Its data is deleted. Nothing was changed.</p>
        </Notice>
      )}
    </>
  );
}

function Missing({ error }: { error: Problem }) {
  return (
    <div class="empty">
      <h1>{error.status === 404 ? "This recalibration does not exist" : "There is a problem"}</h1>
      <p class="hint">
        {error.status === 404
          ? "It was deleted, has expired, or belongs to another token."
          : error.message}
      </p>
      <a class="button primary" href="#/recalibrations">
        Show all recalibrations
      </a>
    </div>
  );
}

function Header({ found }: { found: Recalibration }) {
  const [deleting, setDeleting] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const running = !ENDED.has(found.state);
  const act = async (work: () => Promise<unknown>) => {
    try {
      setError(null);
      await work();
    } catch (failure) {
      setError(messageOf(failure));
    }
  };
  const remove = async () => {
    await deleteRecalibration(found.id);
    go("#/recalibrations");
  };
  return (
    <div class="title-row">
      <div>
        <h1>{found.name || found.id}</h1>
        <p class="hint">
          <Status found={found} /> {when(found.created)}
          {found.state !== "open" && ` · ${count(found.batches.samples, "sample")}`}
        </p>
      </div>
      <div class="actions">
        {running && found.state !== "open" && (
          <button
            type="button"
            class="button"
            onClick={() => void act(() => postJson(`/v1/recalibrations/${found.id}/cancel`, {}))}
          >
            Cancel
          </button>
        )}
        <button
          type="button"
          class="button quiet icon-only"
          aria-label="Delete this recalibration"
          onClick={() => setDeleting(true)}
        >
          <Icon name="trash" />
        </button>
      </div>
      {error !== null && (
        <Notice tone="bad" urgent>
          <p>{error}</p>
        </Notice>
      )}
      {deleting && (
        <Confirm
          title="Delete this recalibration?"
          text="Its model, its report and any data that is still stored will be gone."
          action="Delete"
          onConfirm={() => void act(remove)}
          onClose={() => setDeleting(false)}
        />
      )}
    </div>
  );
}
