import type { Recalibration } from "../api";
import { duration } from "../format";
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

/** A run in progress: its phase and the time left. */
export function Running({ found }: { found: Recalibration }) {
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
    </section>
  );
}
