import { problemText, type Recalibration } from "../api";
import { Notice } from "../parts/notice";

/** A run that has failed: why, and what to do. */
export function Failed({ found }: { found: Recalibration }) {
  const error = found.error ?? {};
  const suggestion = typeof error.suggestion === "string" ? error.suggestion : null;
  return (
    <>
      <Notice tone="bad" title={String(error.title ?? "The run has failed")}>
        <p>{problemText(error)}</p>
        {suggestion !== null && !problemText(error).includes(suggestion) && <p>{suggestion}</p>}
      </Notice>
      <p class="after">The model is unchanged.</p>
      <div class="actions after">
        <a class="button primary" href="#/">
          Try again with other settings
        </a>
      </div>
    </>
  );
}
