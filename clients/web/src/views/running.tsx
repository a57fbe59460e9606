import type { Layers, Recalibration } from "../api";
import { count, duration, sigma } from "../format";
import { Progress } from "../parts/progress";

const PHASES: [string, string][] = [
  ["inserting", "Bringing the layers back"],
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

/** A run in progress: its phase, the time left, and the layers that have settled. */
export function Running({ found, layers }: { found: Recalibration; layers: Layers }) {
  const phases = PHASES.filter(([key]) => key !== "inserting" || found.source_batches.received > 0);
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
            ? "You can close this page: the run goes on without it."
            : `About ${duration(left)} left in this phase. You can close this page.`
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
      {layers.length > 0 && <Settled layers={layers} />}
    </section>
  );
}

function Settled({ layers }: { layers: Layers }) {
  const largest = Math.max(1, ...layers.map((one) => one.distance));
  const last = layers.at(-1);
  return (
    <section class="settled" aria-labelledby="settled">
      <h3 id="settled">{count(layers.length, "layer")} settled</h3>
      <p class="hint">
        Each bar is one layer, from the input of the network to its output: how far its input had
        drifted.
        {last && ` The last one: ${last.name}, ${sigma(last.distance)}.`}
      </p>
      <div class="bars" role="img" aria-label={`Drift of ${count(layers.length, "layer")}`}>
        <svg viewBox={`0 0 ${Math.max(24, layers.length) * 4} 40`} preserveAspectRatio="none">
          <title>Drift by layer</title>
          {layers.map((one, place) => {
            const height = Math.max(1, (40 * one.distance) / largest);
            return (
              <rect
                key={one.name}
                x={place * 4}
                y={40 - height}
                width={3}
                height={height}
                rx={0.5}
              />
            );
          })}
        </svg>
      </div>
    </section>
  );
}
