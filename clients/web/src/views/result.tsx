import { useEffect, useState } from "preact/hooks";
import {
  download,
  isAbort,
  messageOf,
  type Predictions,
  type Recalibration,
  send,
  type Verdict,
} from "../api";
import { ACCEPTED, classify, type Picked } from "../files";
import { baseName, percent } from "../format";
import { Drop } from "../parts/drop";
import { SkippedList } from "../parts/file-list";
import { Icon } from "../parts/icon";
import { Notice } from "../parts/notice";
import { FilePicture } from "../parts/picture";
import { ReportFrame } from "../parts/report-frame";
import { statusOf, stepsOf } from "../parts/status";
import { type Samples, sample, withPath } from "../samples";
import { session } from "../session";
import { uploadOf } from "../upload";

const COMPARED = 8;

/** The result: the verdict first, then the files, the predictions, and the whole report. */
export function Result({ found }: { found: Recalibration }) {
  return (
    <>
      {found.verdict && <VerdictCard found={found} verdict={found.verdict} />}
      <Downloads found={found} />
      <Comparison found={found} />
      <section aria-labelledby="report">
        <h2 id="report">Report</h2>
        <ReportFrame id={found.id} />
        {session.value.token === null && (
          <p class="hint">
            <a href={`/v1/recalibrations/${found.id}/report`} target="_blank" rel="noreferrer">
              Open the report in a tab of its own
            </a>
          </p>
        )}
      </section>
    </>
  );
}

function VerdictCard({ found, verdict }: { found: Recalibration; verdict: Verdict }) {
  const [tone, title] = statusOf(found);
  const steps = stepsOf(verdict);
  return (
    <section class={`verdict ${tone}`} aria-labelledby="verdict">
      <h2 id="verdict">
        <Icon name={tone === "good" ? "check" : tone === "warn" ? "warn" : "stop"} />
        {title}
      </h2>
      <p class="sentence">{verdict.sentence}</p>
      {steps.length > 0 && (
        <>
          <h3>What to do next</h3>
          <ul>
            {steps.map((step) => (
              <li key={step}>{step}</li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

function Downloads({ found }: { found: Recalibration }) {
  const [busy, setBusy] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const base = `/v1/recalibrations/${found.id}`;
  const name = (found.name || found.id).replace(/[^\p{L}\p{N}._-]+/gu, "-");
  const files = [
    { label: "Model", note: "ONNX, BatchNorm folded", path: "/model", suffix: ".onnx" },
    {
      label: "Model with BatchNorm",
      note: "ONNX, to train or recalibrate again",
      path: "/model?variant=unfolded",
      suffix: "-batchnorm.onnx",
    },
    {
      label: "Statistics",
      note: "safetensors",
      path: "/statistics",
      suffix: "-statistics.safetensors",
    },
    {
      label: "Report",
      note: "HTML",
      path: "/report",
      suffix: "-report.html",
      accept: "text/html",
    },
    {
      label: "Report as data",
      note: "JSON",
      path: "/report",
      suffix: "-report.json",
      accept: "application/json",
    },
  ];
  const primary = found.verdict?.code !== "do-not-deploy";
  const save = async (file: (typeof files)[number]) => {
    setBusy(file.label);
    setError(null);
    try {
      await download(base + file.path, name + file.suffix, file.accept);
    } catch (failure) {
      setError(messageOf(failure));
    }
    setBusy(null);
  };
  return (
    <section aria-labelledby="downloads">
      <h2 id="downloads">Downloads</h2>
      <ul class="downloads">
        {files.map((file, place) => (
          <li key={file.label}>
            <button
              type="button"
              class={`button ${place === 0 && primary ? "primary" : ""}`}
              disabled={busy !== null}
              onClick={() => void save(file)}
            >
              <Icon name="download" />
              <span>
                {busy === file.label ? "Downloading…" : file.label}
                <span class="note">{file.note}</span>
              </span>
            </button>
          </li>
        ))}
      </ul>
      {error !== null && (
        <Notice tone="bad" title="The download has failed" urgent>
          <p>{error}</p>
        </Notice>
      )}
    </section>
  );
}

interface Compared {
  samples: Samples;
  data: Predictions;
}

/** Predictions before and after for a few samples, which the server does not store. */
function Comparison({ found }: { found: Recalibration }) {
  const [kept] = useState(() => uploadOf(found.id)?.accepted());
  const [picked, setPicked] = useState<Picked[]>(kept ?? []);
  const [compared, setCompared] = useState<Compared | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [labels, setLabels] = useState<string[]>([]);
  const working = picked.length > 0 && compared === null && error === null;

  useEffect(() => {
    if (picked.length === 0) return;
    const stop = new AbortController();
    const compare = async () => {
      try {
        const samples = await sample(picked, COMPARED);
        if (samples === null) {
          setError("The file is too large. Choose some pictures.");
          return;
        }
        const data = await send<Predictions>(`/v1/recalibrations/${found.id}/predictions`, {
          method: "POST",
          type: samples.type,
          body: samples.body,
          signal: stop.signal,
        });
        setCompared({ samples, data });
      } catch (failure) {
        if (!isAbort(failure)) setError(messageOf(failure));
      }
    };
    setCompared(null);
    setError(null);
    void compare();
    return () => stop.abort();
  }, [picked, found.id]);

  if (compared?.data.classes === null && kept !== undefined && picked === kept) return null;
  return (
    <section aria-labelledby="comparison">
      <h2 id="comparison">Predictions before and after</h2>
      <div aria-live="polite">
        {working && <p class="working">Running both models…</p>}
        {error !== null && (
          <Notice tone="bad" title="There are no predictions">
            <p>{error}</p>
          </Notice>
        )}
        {compared !== null && compared.data.classes === null && (
          <Notice tone="info" title="The model predicts no classes">
            <p>Predictions are shown for models whose output is a table of classes.</p>
          </Notice>
        )}
      </div>
      {compared !== null && compared.data.classes !== null && (
        <Predicted compared={compared} labels={labels} />
      )}
      <details class="options" open={picked.length === 0}>
        <summary>{picked.length ? "Compare other samples" : "Compare some samples"}</summary>
        <Drop
          icon="images"
          title="Drop a few samples"
          hint={`The first ${COMPARED} are shown. The server does not store them.`}
          accept={ACCEPTED}
          action="Choose files"
          many
          onFiles={(files) => {
            const selection = classify(files);
            if (selection.picked.length) setPicked(selection.picked);
            else setError("None of these files can be used.");
          }}
        />
        <label for="labels">Names of the classes, one a line (stays in this page)</label>
        <input
          id="labels"
          type="file"
          accept=".txt,.csv,.names"
          onChange={async (event) => {
            const text = await event.currentTarget.files?.[0]?.text();
            setLabels(text?.split(/\r?\n/).map((line) => line.trim()) ?? []);
          }}
        />
      </details>
    </section>
  );
}

function Predicted({ compared, labels }: { compared: Compared; labels: string[] }) {
  const { data, samples } = compared;
  const shown = data.samples.slice(0, COMPARED);
  const name = (index: number) => labels[index] || `class ${index}`;
  const changed = shown.filter((one) => one.before[0]?.index !== one.after[0]?.index).length;
  return (
    <>
      <p>
        {changed === 0
          ? `All ${shown.length} predictions stay the same.`
          : `${changed} of ${shown.length} predictions change.`}
      </p>
      <ul class="predictions">
        {shown.map((one) => {
          const file = samples.pictures.get(one.name);
          const differs = one.before[0]?.index !== one.after[0]?.index;
          return (
            <li key={one.name} class={differs ? "changed" : ""}>
              {file && <FilePicture file={file.file} alt={file.path} />}
              <p class="path">{baseName(file?.path ?? one.name)}</p>
              <Classes title="Before" classes={one.before} name={name} />
              <Classes title="After" classes={one.after} name={name} />
            </li>
          );
        })}
      </ul>
      <SkippedList
        skipped={data.skipped.map(({ name: member, reason }) => {
          const path = samples.pictures.get(member)?.path ?? member;
          return { path, reason: withPath(reason, member, path) };
        })}
      />
    </>
  );
}

interface ClassesProps {
  title: string;
  classes: { index: number; probability: number }[];
  name: (index: number) => string;
}

function Classes({ title, classes, name }: ClassesProps) {
  return (
    <div class="classes">
      <h4>{title}</h4>
      <ol>
        {classes.map(({ index, probability }) => (
          <li key={index}>
            <span>{name(index)}</span>
            <meter min={0} max={1} value={probability} aria-hidden="true" />
            <span class="hint">{percent(probability)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}
