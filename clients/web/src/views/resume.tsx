import { useState } from "preact/hooks";
import { messageOf, postJson, type Recalibration } from "../api";
import { nameOf } from "../draft";
import { ACCEPTED, classify } from "../files";
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
  const { received, samples } = found.batches;
  const needsSource = found.source_batches.received > 0;
  const start = async () => {
    try {
      const body = { batches: received, source_batches: found.source_batches.received };
      await postJson(`/v1/recalibrations/${found.id}/start`, body);
    } catch (failure) {
      setError(messageOf(failure));
    }
  };
  return (
    <section aria-labelledby="resume">
      <h2 id="resume">The upload is not complete</h2>
      <p>
        {samples === 0
          ? "No data is stored yet."
          : `${count(samples, "sample")} are stored. Nothing that was stored is sent again.`}
      </p>
      {error !== null && (
        <Notice tone="bad" title="The server refused to start" urgent>
          <p>{error}</p>
        </Notice>
      )}
      <Drop
        icon="images"
        title="Choose the same files again to go on"
        hint="The upload goes on where it stopped, and then the run starts."
        accept={ACCEPTED}
        action="Choose files"
        many
        onFiles={(files) => {
          const { picked } = classify(files);
          if (picked.length === 0) {
            setError("None of these files can be used.");
            return;
          }
          startUpload(
            found.id,
            { batches: picked, "source-batches": [] },
            { model: null, data: nameOf(picked) },
          );
          onStarted();
        }}
      />
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
