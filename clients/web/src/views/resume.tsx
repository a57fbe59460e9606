import { useEffect, useState } from "preact/hooks";
import { getJson, isAbort, type Model, messageOf, postJson, type Recalibration } from "../api";
import { keptModelName, nameOf } from "../draft";
import { ACCEPTED, classify, type Picked } from "../files";
import { count } from "../format";
import { Drop } from "../parts/drop";
import { Notice } from "../parts/notice";
import { startUpload } from "../upload";

interface Props {
  found: Recalibration;
  onStarted: () => void;
}

/** An upload that another tab, or this one before it was loaded again, has left. */
export function Resume({ found, onStarted }: Props) {
  const [error, setError] = useState<string | null>(null);
  const [target, setTarget] = useState<Picked[]>([]);
  const [source, setSource] = useState<Picked[]>([]);
  const needsSource = useNeedsSource(found);
  const { received, samples } = found.batches;
  const start = async () => {
    try {
      await postJson(`/v1/recalibrations/${found.id}/start`, { batches: received });
    } catch (failure) {
      setError(messageOf(failure));
    }
  };
  const send = (batches: Picked[], sources: Picked[]) => {
    const names = { model: keptModelName(found.model), data: nameOf(batches) };
    startUpload(found.id, { batches, "source-batches": sources }, names);
    onStarted();
  };
  const choose = (stream: "target" | "source", files: { path: string; file: File }[]) => {
    const { picked } = classify(files);
    setError(picked.length ? null : "None of these files can be used.");
    if (picked.length === 0) return;
    const batches = stream === "target" ? picked : target;
    const sources = stream === "source" ? picked : source;
    setTarget(batches);
    setSource(sources);
    if (batches.length && (sources.length || !needsSource)) send(batches, sources);
  };
  if (needsSource === null) return <p class="working">Loading…</p>;
  const stored = samples + found.source_batches.samples;
  return (
    <section aria-labelledby="resume">
      <h2 id="resume">The upload is not complete</h2>
      <p>
        {stored === 0
          ? "No data is stored yet."
          : `${count(stored, "sample")} ${stored === 1 ? "is" : "are"} stored. Nothing that was stored is sent again.`}
      </p>
      {error !== null && (
        <Notice tone="bad" title="The upload cannot continue" urgent>
          <p>{error}</p>
        </Notice>
      )}
      <Choice
        title={
          needsSource
            ? "Choose the same files from the new domain again"
            : "Choose the same files again to continue"
        }
        picked={target}
        onFiles={(files) => choose("target", files)}
      />
      {needsSource && (
        <Choice
          title="Choose the same files that the model was trained on again"
          picked={source}
          onFiles={(files) => choose("source", files)}
        />
      )}
      {samples > 0 && !needsSource && (
        <div class="actions">
          <button type="button" class="button" onClick={() => void start()}>
            Start with the {count(samples, "stored sample")}
          </button>
        </div>
      )}
    </section>
  );
}

interface ChoiceProps {
  title: string;
  picked: Picked[];
  onFiles: (files: { path: string; file: File }[]) => void;
}

function Choice({ title, picked, onFiles }: ChoiceProps) {
  return (
    <Drop
      icon={picked.length ? "check" : "images"}
      title={title}
      hint={
        picked.length
          ? `${count(picked.length, "file")} chosen.`
          : "The upload continues where it stopped, and then the run starts."
      }
      accept={ACCEPTED}
      action="Choose files"
      many
      onFiles={onFiles}
    />
  );
}

/** Return whether the model needs data that it was trained on; null while that is unknown. */
function useNeedsSource(found: Recalibration): boolean | null {
  const started = found.source_batches.received > 0;
  const [needed, setNeeded] = useState<boolean | null>(started ? true : null);
  useEffect(() => {
    const stop = new AbortController();
    getJson<Model>(`/v1/models/${found.model}`, stop.signal)
      .then((model) => setNeeded(started || model.needs_source_batches === true))
      // Without the model the server refuses the start, and says why.
      .catch((failure) => isAbort(failure) || setNeeded(started));
    return () => stop.abort();
  }, [found.model, started]);
  return needed;
}
