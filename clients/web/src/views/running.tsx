import type { Recalibration } from "../api";
import { count, duration } from "../format";
import { driftOf, LayerChart } from "../parts/layer-chart";
import { Progress } from "../parts/progress";
import type { Measured } from "./one";

const PHASES: [string, string][] = [
  ["inserting", "Bringing the layers back"],
  ["sampling", "Choosing samples"],
  ["reading", "Reading the data"],
  ["measuring", "Measuring the layers"],
  ["choosing", "Choosing the statistics"],
  ["folding", "Folding BatchNorm"],
  ["verifying", "Verifying the result"],
];

const WAITING: Record<string, string> = {
  sealed: "Waiting until enough memory is free.",
  queued: "Waiting for the runs before this one.",
};

/** The phases of a run, in order. */
function phasesOf(found: Recalibration): [string, string][] {
  const left = new Set<string>();
  if (found.source_batches.received === 0) left.add("inserting");
  if (found.options.max_samples == null) left.add("sampling");
  return PHASES.filter(([key]) => !left.has(key));
}

interface Props {
  found: Recalibration;
  measured: Measured;
}

/** A run in progress: its phase, the time left, and the layers that it has measured. */
export function Running({ found, measured }: Props) {
  const phases = phasesOf(found);
  const at = phases.findIndex(([key]) => key === found.progress?.phase);
  const { done = 0, total = null, seconds_left: left = null } = found.progress ?? {};
  const running = found.state === "running";
  const title = phases[at]?.[1] ?? "Starting";
  return (
    <section aria-labelledby="running">
      <h2 id="running">{running ? title : "In the queue"}</h2>
      <Progress label={title} share={running && total ? Math.min(1, done / total) : null} />
      <p class="hint" role="status">
        {running
          ? left === null
            ? "You can close this page: the run continues without it."
            : `${duration(left)} left in this phase. You can close this page.`
          : WAITING[found.state]}
      </p>
      <ol class="phases">
        {phases.map(([key, text], place) => (
          <li
            key={key}
            class={place < at ? "done" : place === at ? "now" : ""}
            aria-current={place === at ? "step" : undefined}
          >
            {text}
          </li>
        ))}
      </ol>
      {measured.layers.size > 0 && <Layers measured={measured} />}
    </section>
  );
}

/** The layers measured so far: how far the new domain is from the statistics of each. */
function Layers({ measured }: { measured: Measured }) {
  const layers = [...measured.layers.values()];
  return (
    <figure class="card live">
      <figcaption>
        <h3>Drift of the measured statistics, in σ</h3>
        <p class="hint">
          {layers.length < measured.total
            ? `${layers.length} of ${count(measured.total, "layer")} measured, from the input to the output`
            : `${count(layers.length, "layer")} measured, from the input to the output`}
          . Where a part of the old statistics is kept at the end, the layers move less.
        </p>
      </figcaption>
      <LayerChart layers={layers} total={measured.total} />
      <details class="files">
        <summary>Show the layers</summary>
        <ul tabIndex={0} aria-label="Measured layers">
          {layers.map((layer) => (
            <li key={layer.name}>
              <span class="path">{layer.name}</span>
              <span class="size">{driftOf(layer)}</span>
            </li>
          ))}
        </ul>
      </details>
    </figure>
  );
}
