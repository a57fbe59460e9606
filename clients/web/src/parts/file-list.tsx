import type { Skipped } from "../files";
import { bytes, count } from "../format";
import type { FileState, UploadFile } from "../upload";

const SHOWN = 500;
const STATES: Record<FileState, string> = {
  waiting: "Waiting",
  sending: "Sending",
  stored: "Stored",
  skipped: "Skipped",
};

/** Every file with its state. */
export function FileList({ files }: { files: readonly UploadFile[] }) {
  return (
    <details class="files">
      <summary>{count(files.length, "file")}</summary>
      <ul tabIndex={0} aria-label="Files">
        {files.slice(0, SHOWN).map(({ picked, state }) => (
          <li key={picked.path}>
            <span class="path">{picked.path}</span>
            <span class="size">{bytes(picked.file.size)}</span>
            <span class={`state ${state}`}>{STATES[state]}</span>
          </li>
        ))}
        {files.length > SHOWN && <li>and {count(files.length - SHOWN, "more file")}</li>}
      </ul>
    </details>
  );
}

/** Files that are not used, each with the reason. */
export function SkippedList({ skipped }: { skipped: readonly Skipped[] }) {
  if (skipped.length === 0) return null;
  return (
    <details class="files skipped" open={skipped.length <= 5}>
      <summary>{count(skipped.length, "file")} skipped</summary>
      <ul tabIndex={0} aria-label="Skipped files">
        {skipped.slice(0, SHOWN).map(({ path, reason }) => (
          <li key={path}>
            <span class="path">{path}</span>
            <span class="reason">{reason}</span>
          </li>
        ))}
        {skipped.length > SHOWN && <li>and {count(skipped.length - SHOWN, "more file")}</li>}
      </ul>
    </details>
  );
}
