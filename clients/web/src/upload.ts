import {
  type Batch,
  getJson,
  isAbort,
  messageOf,
  Problem,
  persistently,
  postJson,
  type Recalibration,
  request,
  send,
} from "./api";
import type { Picked } from "./files";
import { cut, readRows } from "./npy";
import type { components } from "./openapi";
import { memberName, withPath } from "./samples";
import { Store } from "./store";
import { tar } from "./tar";

type Schemas = components["schemas"];

const IMAGES_PER_BATCH = 32;
const BATCH_BYTES = 8e6;

export type FileState = "waiting" | "sending" | "stored" | "skipped";

export interface UploadFile {
  picked: Picked;
  state: FileState;
  reason?: string;
}

export interface UploadStatus {
  state: "sending" | "starting" | "started" | "stopped" | "failed";
  files: UploadFile[];
  sentBytes: number;
  totalBytes: number;
  /** Why the upload waits and tries again, or why it failed. */
  message: string | null;
}

/** What is sent as one batch: several images, or a file, or some rows of one. */
interface Chunk {
  files: number[];
  bytes: number;
  rows?: () => Blob;
}

type StreamName = "batches" | "source-batches";

/** Names for the report; null where they are not known. */
export interface Names {
  model: string | null;
  data: string | null;
}

// The limits of the server.
const MAX_SKIPPED = 1000;
const MAX_LINE = 300;

function line(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the server accepts none
  return text.replace(/[\u0000-\u001f\u007f]/g, " ").slice(0, MAX_LINE);
}

export interface Streams {
  batches: Picked[];
  "source-batches": Picked[];
}

/** Sends the files of one recalibration and starts its run; continues while other views are shown. */
export class Upload {
  readonly status: Store<UploadStatus>;
  #stop = new AbortController();
  #done = 0; // bytes of the chunks that are stored
  #files: Record<StreamName, UploadFile[]>;

  constructor(
    readonly id: string,
    readonly streams: Streams,
    readonly names: Names,
  ) {
    const skipped = readSkipped(id);
    const states = (stream: StreamName, picked: Picked[]): UploadFile[] =>
      picked.map((one) => {
        const reason = skipped[`${stream}/${one.path}`];
        return reason === undefined
          ? { picked: one, state: "waiting" }
          : { picked: one, state: "skipped", reason };
      });
    this.#files = {
      batches: states("batches", streams.batches),
      "source-batches": states("source-batches", streams["source-batches"]),
    };
    const files = [...this.#files.batches, ...this.#files["source-batches"]];
    this.status = new Store<UploadStatus>({
      state: "sending",
      files,
      sentBytes: 0,
      totalBytes: files.reduce((sum, one) => sum + one.picked.file.size, 0),
      message: null,
    });
  }

  stop(): void {
    this.#stop.abort();
  }

  /** The files of the new domain that the server has accepted. */
  accepted(): Picked[] {
    return this.#files.batches.flatMap((one) => (one.state === "skipped" ? [] : [one.picked]));
  }

  async run(): Promise<void> {
    try {
      const batches = await this.#send("batches");
      const source = await this.#send("source-batches");
      this.status.update({ state: "starting" });
      const body = { batches, source_batches: source, report: this.#report() };
      const path = `/v1/recalibrations/${this.id}/start`;
      await this.#persistently(() => postJson<Recalibration>(path, body));
      this.status.update({ state: "started", message: null });
      sessionStorage.removeItem(SKIPPED_KEY + this.id);
    } catch (error) {
      if (isAbort(error)) this.status.update({ state: "stopped", message: null });
      else this.status.update({ state: "failed", message: messageOf(error) });
    }
  }

  /** Return what the report names and only this page knows. */
  #report(): Schemas["ReportDetailsIn"] {
    const skipped = this.#files.batches.flatMap(({ picked, state, reason }, index) =>
      state === "skipped"
        ? [{ index, name: line(picked.path), reason: line(reason ?? "rejected") }]
        : [],
    );
    return {
      model_name: this.names.model && line(this.names.model),
      data_name: this.names.data && line(this.names.data),
      skipped_samples: skipped.slice(0, MAX_SKIPPED),
    };
  }

  #persistently<T>(work: () => Promise<T>): Promise<T> {
    const waiting = (problem: Problem | null) => {
      const message = problem && `${problem.message} Trying again; nothing is lost.`;
      if (message !== this.status.value.message) this.status.update({ message });
    };
    return persistently(work, waiting, this.#stop.signal);
  }

  /** Send a stream in order; return its number of batches. */
  async #send(stream: StreamName): Promise<number> {
    const files = this.#files[stream];
    if (files.length === 0) return 0;
    const stored = await this.#stored(stream);
    let index = 0;
    for await (const chunk of plan(files)) {
      this.#mark(files, chunk, "sending");
      if (await this.#put(stream, files, chunk, index, stored)) index += 1;
      this.#done += chunk.bytes;
      this.status.update({ sentBytes: this.#done });
    }
    if (index === 0) {
      throw new Problem("None of the files can be used.", 422, "nothing", false);
    }
    return Math.max(index, stored.size);
  }

  /** Return the digests of the batches that an interrupted upload has stored. */
  async #stored(stream: StreamName): Promise<Map<number, string>> {
    const found = new Map<number, string>();
    let after: string | null = "";
    while (after !== null) {
      const query: string = after ? `&after=${after}` : "";
      const path = `/v1/recalibrations/${this.id}/${stream}?limit=1000${query}`;
      const page = await this.#persistently(() =>
        getJson<{ items: Batch[]; next: string | null }>(path),
      );
      for (const batch of page.items) found.set(batch.index, batch.sha256);
      after = page.next;
    }
    return found;
  }

  /** Store a chunk without the images that the server rejects; return whether anything is left. */
  async #put(
    stream: StreamName,
    files: UploadFile[],
    chunk: Chunk,
    index: number,
    stored: Map<number, string>,
  ): Promise<boolean> {
    for (;;) {
      const numbers = chunk.files.filter((number) => files[number]?.state !== "skipped");
      if (numbers.length === 0) return false;
      const { body, type } = bodyOf(files, numbers, chunk);
      if (await this.#isStored(body, stored.get(index))) {
        this.#mark(files, chunk, "stored");
        return true;
      }
      try {
        await this.#persistently(() =>
          send<Batch>(`/v1/recalibrations/${this.id}/${stream}/${index}`, {
            method: "PUT",
            type,
            body,
            signal: this.#stop.signal,
            onSent: (sent) =>
              this.status.update({ sentBytes: this.#done + Math.min(sent, chunk.bytes) }),
          }),
        );
        this.#mark(files, chunk, "stored");
        return true;
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (error.code === "batch-conflict") {
          throw new Problem(
            "These are not the files of the interrupted upload. Choose the same files again, or " +
              "delete this recalibration and start a new one.",
            error.status,
            error.code,
            false,
          );
        }
        this.#skip(stream, files, numbers, error);
      }
    }
  }

  /** Skip the file that the server rejected; rethrow what is not the fault of a file. */
  #skip(stream: StreamName, files: UploadFile[], numbers: number[], problem: Problem): void {
    if (problem.status !== 422 && problem.code !== "too-large") throw problem;
    const named = String(problem.members.image ?? "");
    const at = numbers.find(
      (number) => memberName(number, files[number]?.picked.path ?? "") === named,
    );
    for (const number of at === undefined ? numbers : [at]) {
      const file = files[number];
      if (file === undefined) continue;
      file.state = "skipped";
      file.reason = withPath(problem.message, named, file.picked.path);
      rememberSkipped(this.id, `${stream}/${file.picked.path}`, file.reason);
    }
    this.status.update({});
  }

  #mark(files: UploadFile[], chunk: Chunk, state: FileState): void {
    for (const number of chunk.files) {
      const file = files[number];
      if (file !== undefined && file.state !== "skipped") file.state = state;
    }
    this.status.update({});
  }

  async #isStored(body: Blob, digest: string | undefined): Promise<boolean> {
    // Browsers have digests in secure contexts only; elsewhere the batch is sent again, which the
    // server recognizes.
    if (digest === undefined || !globalThis.crypto?.subtle) return false;
    const found = await crypto.subtle.digest("SHA-256", await body.arrayBuffer());
    const text = Array.from(new Uint8Array(found), (byte) => byte.toString(16).padStart(2, "0"));
    return text.join("") === digest;
  }
}

function bodyOf(
  files: UploadFile[],
  numbers: number[],
  chunk: Chunk,
): { body: Blob; type: string } {
  const first = files[numbers[0] ?? 0];
  if (first === undefined) throw new RangeError("a chunk without a file");
  if (first.picked.kind !== "image") {
    return { body: chunk.rows?.() ?? first.picked.file, type: first.picked.type };
  }
  const entries = numbers.flatMap((number) => {
    const file = files[number]?.picked;
    return file ? [{ name: memberName(number, file.path), file: file.file }] : [];
  });
  return { body: tar(entries), type: "application/x-tar" };
}

/** Yield the chunks of files; the same files give the same chunks, so an upload can be continued. */
async function* plan(files: readonly UploadFile[]): AsyncGenerator<Chunk> {
  let images: Chunk = { files: [], bytes: 0 };
  for (const [number, { picked }] of files.entries()) {
    const size = picked.file.size;
    if (picked.kind === "image") {
      const full = images.files.length === IMAGES_PER_BATCH || images.bytes + size > BATCH_BYTES;
      if (images.files.length && full) {
        yield images;
        images = { files: [], bytes: 0 };
      }
      images.files.push(number);
      images.bytes += size;
      continue;
    }
    const rows = picked.type === "application/x-npy" ? await readRows(picked.file) : null;
    if (rows === null || size <= BATCH_BYTES) {
      yield { files: [number], bytes: size };
      continue;
    }
    const wanted = Math.max(1, Math.floor(BATCH_BYTES / rows.rowBytes));
    for (let first = 0; first < rows.rows; first += wanted) {
      const some = Math.min(wanted, rows.rows - first);
      yield {
        files: [number],
        bytes: some * rows.rowBytes,
        rows: () => cut(picked.file, rows, first, some),
      };
    }
  }
  if (images.files.length) yield images;
}

// Which files were skipped decides what a batch holds, so an upload that continues after the page was
// loaded again must skip the same.
const SKIPPED_KEY = "bnrecal-skipped-";

function readSkipped(id: string): Record<string, string> {
  return JSON.parse(sessionStorage.getItem(SKIPPED_KEY + id) ?? "{}") as Record<string, string>;
}

function rememberSkipped(id: string, file: string, reason: string): void {
  sessionStorage.setItem(SKIPPED_KEY + id, JSON.stringify({ ...readSkipped(id), [file]: reason }));
}

const uploads = new Map<string, Upload>();

/** Start to send the files of a recalibration. */
export function startUpload(id: string, streams: Streams, names: Names): Upload {
  uploads.get(id)?.stop();
  const upload = new Upload(id, streams, names);
  uploads.set(id, upload);
  void upload.run();
  return upload;
}

/** Return the upload that this tab has made for a recalibration, if any. */
export function uploadOf(id: string): Upload | undefined {
  return uploads.get(id);
}

export async function deleteRecalibration(id: string): Promise<void> {
  uploads.get(id)?.stop();
  uploads.delete(id);
  await request(`/v1/recalibrations/${id}`, { method: "DELETE" });
}

/** Return whether closing the tab would interrupt an upload. */
export function isSending(): boolean {
  return [...uploads.values()].some((one) =>
    ["sending", "starting"].includes(one.status.value.state),
  );
}
