import { useEffect } from "preact/hooks";
import {
  addFiles,
  clearFiles,
  type Draft,
  draft,
  dropModel,
  holdsImages,
  restoreModel,
  sendModel,
  start,
  suggestedName,
} from "../draft";
import { ACCEPTED, classify, type Selection } from "../files";
import { bytes, count } from "../format";
import { Drop } from "../parts/drop";
import { SkippedList } from "../parts/file-list";
import { ModelCard } from "../parts/model-card";
import { Notice } from "../parts/notice";
import { Preprocessing } from "../parts/preprocessing";
import { Progress } from "../parts/progress";
import { go, linkTo } from "../router";
import { useStore } from "../store";

export function NewView() {
  const now = useStore(draft);
  useEffect(() => void restoreModel(), []);
  const needsSource = now.model?.needs_source_batches === true;
  return (
    <>
      <h1>Recalibrate a model</h1>
      <p class="lead">
        Fit the BatchNorm statistics of a trained network to pictures or arrays from the place where
        it will work. No labels are needed, and no weight changes.
      </p>
      <ol class="steps">
        <li>
          <h2>Model</h2>
          <ModelStep now={now} />
        </li>
        <li>
          <h2>Data from the new domain</h2>
          <DataStep now={now} stream="target" />
        </li>
        {needsSource && (
          <li>
            <h2>Data that the model was trained on</h2>
            <p class="hint">
              A few hundred unlabeled samples are enough. They show which statistics the model had,
              so that those of the new domain can take their place.
            </p>
            <DataStep now={now} stream="source" />
          </li>
        )}
        {now.model !== null && now.target.picked.length > 0 && (
          <li>
            <h2>{holdsImages(now.target.picked) ? "What the network sees" : "Input check"}</h2>
            <Preprocessing now={now} />
          </li>
        )}
      </ol>
      <StartStep now={now} />
    </>
  );
}

function ModelStep({ now }: { now: Draft }) {
  if (now.modelSent !== null) {
    const reading = now.modelSent >= 1;
    return (
      <div class="card" aria-live="polite">
        <p class="title">{now.modelName}</p>
        <p>{now.modelMessage ?? (reading ? "Reading the model…" : "Sending the model…")}</p>
        <Progress label="Sending the model" share={reading ? null : now.modelSent} />
        <button type="button" class="button quiet" onClick={dropModel}>
          Cancel
        </button>
      </div>
    );
  }
  if (now.model !== null) {
    return <ModelCard model={now.model} name={now.modelName} onChange={dropModel} />;
  }
  return (
    <>
      <Drop
        icon="model"
        title="Drop an ONNX model here"
        hint="If it has data files, put them into one zip archive with the model."
        accept=".onnx,.zip,.pt2"
        action="Choose a model"
        onFiles={([first]) => first && void sendModel(first.file)}
      />
      {now.modelError !== null && (
        <Notice tone="bad" title={`${now.modelName} was not accepted`} urgent>
          <p>{now.modelError}</p>
        </Notice>
      )}
    </>
  );
}

function DataStep({ now, stream }: { now: Draft; stream: "target" | "source" }) {
  const selection = now[stream];
  return (
    <>
      {selection.picked.length > 0 && <Chosen selection={selection} stream={stream} />}
      <Drop
        icon="images"
        title={selection.picked.length ? "Add more" : "Drop images, a folder or arrays here"}
        hint="JPEG, PNG, WebP, BMP, GIF and TIFF; .npy, .npz and .safetensors; zip and tar archives of images."
        accept={ACCEPTED}
        action="Choose files"
        many
        onFiles={(files) => void addFiles(stream, classify(files))}
      />
      <SkippedList skipped={selection.skipped} />
    </>
  );
}

function Chosen({ selection, stream }: { selection: Selection; stream: "target" | "source" }) {
  const kinds = [
    ["image", "image"],
    ["array", "array file"],
    ["archive", "archive"],
  ] as const;
  const parts = kinds.flatMap(([kind, word]) => {
    const found = selection.picked.filter((one) => one.kind === kind).length;
    return found ? [count(found, word)] : [];
  });
  const size = selection.picked.reduce((sum, one) => sum + one.file.size, 0);
  return (
    <div class="card">
      <div class="heading">
        <div>
          <p class="title">{parts.join(", ")}</p>
          <p class="hint">{bytes(size)}</p>
        </div>
        <button type="button" class="button quiet" onClick={() => void clearFiles(stream)}>
          Clear
        </button>
      </div>
    </div>
  );
}

/** Return what is missing before a run can start, or null. */
function missing(now: Draft): string | null {
  if (now.model === null) return "Choose a model first.";
  if (now.target.picked.length === 0) return "Choose data from the new domain.";
  if (now.model.needs_source_batches && now.source.picked.length === 0) {
    return "Choose data that the model was trained on.";
  }
  if (now.preview.loading) return "One moment: the input is being checked.";
  const plausible = now.preview.data?.check?.plausible ?? true;
  if (!plausible && !now.allowMismatch) {
    return "The input check found a fault: choose another preprocessing, or continue anyway.";
  }
  if (holdsImages(now.target.picked) && now.preview.data === null && now.choice !== "custom") {
    return "Choose a preprocessing.";
  }
  return null;
}

function StartStep({ now }: { now: Draft }) {
  const reason = missing(now);
  const begin = async () => {
    const id = await start();
    if (id !== null) go(linkTo(id));
  };
  return (
    <section class="start" aria-label="Start">
      {now.model !== null && now.target.picked.length > 0 && <Options now={now} />}
      {now.startError !== null && (
        <Notice tone="bad" title="The server refused to start" urgent>
          <p>{now.startError}</p>
        </Notice>
      )}
      <div class="actions">
        <button
          type="button"
          class="button primary large"
          disabled={reason !== null || now.starting}
          aria-describedby={reason === null ? undefined : "missing"}
          onClick={() => void begin()}
        >
          {now.starting ? "Starting…" : "Recalibrate"}
        </button>
        {reason !== null && (
          <p id="missing" class="hint">
            {reason}
          </p>
        )}
      </div>
    </section>
  );
}

function Options({ now }: { now: Draft }) {
  return (
    <>
      <label for="name">Name</label>
      <input
        id="name"
        class="long"
        maxLength={200}
        value={now.name}
        placeholder={suggestedName(now)}
        onInput={(event) => draft.update({ name: event.currentTarget.value })}
      />
      <details class="options">
        <summary>More options</summary>
        <label for="estimator">Statistics</label>
        <select
          id="estimator"
          value={now.estimator}
          onChange={(event) =>
            draft.update({ estimator: event.currentTarget.value as Draft["estimator"] })
          }
        >
          <option value="auto">Automatic: as far from the stored ones as the data supports</option>
          <option value="replace">Replace: those of the new data</option>
          <option value="shrink">Shrink: each channel as far as its data supports</option>
        </select>
        {now.estimator === "auto" && (
          <label class="check">
            <input
              type="checkbox"
              checked={now.varied}
              onChange={(event) => draft.update({ varied: event.currentTarget.checked })}
            />
            The data holds all classes about as often as they occur in use
          </label>
        )}
      </details>
    </>
  );
}
