import type { Recalibration, Verdict } from "../api";
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

// Steps that name options of the library or the command, which nobody at this page uses.
const OF_PROGRAMS = /=|--|\(\)/;

// What this page offers instead, by the reason for the verdict.
const STEPS: Record<string, string> = {
  "few-classes-in-stream":
    "If the data does hold all classes about as often as they occur in use, tick that under " +
    "“More options” and recalibrate again.",
  "outputs-not-classes":
    "Compare both models by your own measure: the outputs are not classes, which this page could " +
    "compare.",
};
const TRY_IT = "Try the recalibrated model on samples whose class you know before you deploy it.";
const TRY_REPLACE =
  "To see what recalibration would do, choose “Replace” under “More options”, and try the result " +
  "on samples whose class you know.";

/** Return what to do next. */
export function stepsOf(verdict: Verdict): string[] {
  const steps = verdict.next_steps.filter((step) => !OF_PROGRAMS.test(step));
  for (const { code } of verdict.reasons) steps.push(...(STEPS[code] ? [STEPS[code]] : []));
  if (verdict.code === "check-with-labels") {
    const kept = verdict.reasons.some(({ code }) => code === "source-kept");
    steps.push(kept ? TRY_REPLACE : TRY_IT);
  }
  return steps;
}

export function Status({ found }: { found: Recalibration }) {
  const [tone, text] = statusOf(found);
  return <span class={`tag ${tone}`}>{text}</span>;
}
