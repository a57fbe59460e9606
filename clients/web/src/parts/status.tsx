import type { Recalibration } from "../api";
import type { Tone } from "./notice";

const VERDICTS: Record<string, [Tone, string]> = {
  deploy: ["good", "Deploy"],
  "check-with-labels": ["warn", "Check with labels"],
  "do-not-deploy": ["bad", "Do not deploy"],
};

const STATES: Record<Recalibration["state"], [Tone, string]> = {
  open: ["info", "Waiting for data"],
  sealed: ["info", "Waiting for memory"],
  queued: ["info", "Queued"],
  running: ["info", "Running"],
  succeeded: ["good", "Finished"],
  failed: ["bad", "Failed"],
  cancelled: ["info", "Cancelled"],
};

export function statusOf(found: Recalibration): [Tone, string] {
  const verdict = found.verdict && VERDICTS[found.verdict.code];
  return verdict ?? STATES[found.state];
}

export function Status({ found }: { found: Recalibration }) {
  const [tone, text] = statusOf(found);
  return <span class={`tag ${tone}`}>{text}</span>;
}
