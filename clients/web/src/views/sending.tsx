import { bytes } from "../format";
import { FileList, SkippedList } from "../parts/file-list";
import { Notice } from "../parts/notice";
import { Progress } from "../parts/progress";
import { useStore } from "../store";
import { startUpload, type Upload } from "../upload";

/** The upload that this tab makes, with the state of each file. */
export function Sending({ upload, onAgain }: { upload: Upload; onAgain: () => void }) {
  const status = useStore(upload.status);
  const { state, files, sentBytes, totalBytes, message } = status;
  const skipped = files.flatMap(({ picked, state: one, reason }) =>
    one === "skipped" ? [{ path: picked.path, reason: reason ?? "rejected" }] : [],
  );
  const again = () => {
    startUpload(upload.id, upload.streams, upload.names);
    onAgain();
  };
  return (
    <section aria-labelledby="sending">
      <h2 id="sending">Sending the data</h2>
      {(state === "sending" || state === "starting") && (
        <>
          <Progress label="Sent" share={totalBytes ? sentBytes / totalBytes : null} />
          <p class="hint">
            {state === "starting"
              ? "Starting the run…"
              : `${bytes(sentBytes)} of ${bytes(totalBytes)}`}
          </p>
          <p class="hint">
            Keep this tab open. If it closes, choose the same files again and the upload continues
            where it stopped.
          </p>
          <div class="actions">
            <button type="button" class="button" onClick={() => upload.stop()}>
              Pause
            </button>
          </div>
        </>
      )}
      {message !== null && (
        <Notice
          tone={state === "failed" ? "bad" : "warn"}
          title={state === "failed" ? "The upload has failed" : "The upload waits"}
          urgent
        >
          <p>{message}</p>
        </Notice>
      )}
      {(state === "stopped" || state === "failed") && (
        <div class="actions">
          {state === "stopped" && <p>The upload is paused at {bytes(sentBytes)}.</p>}
          <button type="button" class="button primary" onClick={again}>
            {state === "stopped" ? "Go on" : "Try again"}
          </button>
        </div>
      )}
      <SkippedList skipped={skipped} />
      <FileList files={files} />
    </section>
  );
}
