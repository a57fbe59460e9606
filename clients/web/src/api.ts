import type { components } from "./openapi";
import { askForToken, session } from "./session";

type Schemas = components["schemas"];
export type Model = Schemas["ModelOut"];
export type Recalibration = Schemas["RecalibrationOut"];
export type RecalibrationPage = Schemas["RecalibrationPage"];
export type RecalibrationIn = Schemas["RecalibrationIn"];
export type Batch = Schemas["BatchOut"];
export type MeasuredLayer = Schemas["MeasuredLayerOut"];
export type MeasuredLayers = Schemas["MeasuredLayersOut"];
export type Verdict = Schemas["VerdictOut"];
export type Preview = Schemas["PreviewOut"];
export type Preprocess = Schemas["PreprocessForm"];
export type Predictions = Schemas["PredictionsOut"];

/** An error of the server, or that it does not answer (`status` 0). */
export class Problem extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly retryable: boolean,
    readonly members: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

const UNREACHABLE = "The server does not answer.";
// A proxy sends these while the server behind it restarts.
const GATEWAY = new Set([502, 503, 504]);

export function problemOf(status: number, text: string): Problem {
  try {
    const found = JSON.parse(text) as Record<string, unknown>;
    const detail = String(found.detail ?? found.title ?? `The server answered ${status}.`);
    const retryable = found.retryable === true || GATEWAY.has(status);
    return new Problem(sentence(detail), status, String(found.code ?? ""), retryable, found);
  } catch {
    return new Problem(`The server answered ${status}.`, status, "", GATEWAY.has(status));
  }
}

/** Return a message of the server as a sentence. */
export function sentence(text: string): string {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Send a request with the token; where it is rejected, wait until another one was entered. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    const token = session.value.token;
    const headers = new Headers(init.headers);
    if (token) headers.set("Authorization", `Bearer ${token}`);
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers });
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new Problem(UNREACHABLE, 0, "unreachable", true);
    }
    if (response.ok) return response;
    const problem = problemOf(response.status, await response.text());
    if (problem.status !== 401) throw problem;
    await askForToken(token);
  }
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await request(path, signal ? { signal } : {});
  return (await response.json()) as T;
}

export async function postJson<T>(path: string, body: unknown): Promise<T> {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(body) });
  return (await response.json()) as T;
}

export interface SendOptions {
  method: "POST" | "PUT";
  type: string;
  body: Blob;
  onSent?: (bytes: number) => void;
  signal?: AbortSignal;
}

/** Send a body and report how much of it has been sent, which `fetch` cannot. */
export async function send<T>(path: string, options: SendOptions): Promise<T> {
  for (;;) {
    const token = session.value.token;
    try {
      return await sendOnce<T>(path, options, token);
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      await askForToken(token);
    }
  }
}

function sendOnce<T>(path: string, options: SendOptions, token: string | null): Promise<T> {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    const abort = () => sending.abort();
    sending.open(options.method, path);
    sending.setRequestHeader("Content-Type", options.type);
    if (token) sending.setRequestHeader("Authorization", `Bearer ${token}`);
    sending.upload.onprogress = (event) => options.onSent?.(event.loaded);
    sending.onload = () => {
      if (sending.status < 400) resolve(JSON.parse(sending.responseText) as T);
      else reject(problemOf(sending.status, sending.responseText));
    };
    sending.onerror = () => reject(new Problem(UNREACHABLE, 0, "unreachable", true));
    sending.onabort = () => reject(new DOMException("aborted", "AbortError"));
    sending.onloadend = () => options.signal?.removeEventListener("abort", abort);
    options.signal?.addEventListener("abort", abort);
    if (options.signal?.aborted) reject(new DOMException("aborted", "AbortError"));
    else sending.send(options.body);
  });
}

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;

/** Repeat what may succeed later, such as a request to a server that restarts. */
export async function persistently<T>(
  work: () => Promise<T>,
  onWaiting: (problem: Problem | null) => void,
  signal?: AbortSignal,
): Promise<T> {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      const result = await work();
      onWaiting(null);
      return result;
    } catch (error) {
      if (!(error instanceof Problem) || !error.retryable) throw error;
      onWaiting(error);
      await delay(pause, signal);
    }
  }
}

export function delay(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const wake = () => {
      clearTimeout(timer);
      resolve();
    };
    window.addEventListener("online", wake, { once: true });
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}

export const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export interface ServerEvent {
  id: string | null;
  kind: string;
  data: string;
}

/** Yield server-sent events. `EventSource` cannot send a token, so the stream is read here. */
export async function* events(
  path: string,
  last: string | null,
  signal: AbortSignal,
): AsyncGenerator<ServerEvent> {
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (last !== null) headers["Last-Event-ID"] = last;
  const response = await request(path, { headers, signal });
  const body = response.body;
  if (body === null) return;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = parseEvent(text.slice(0, end));
      text = text.slice(end + 2);
      if (event !== null) yield event;
    }
  }
}

function parseEvent(block: string): ServerEvent | null {
  const event: ServerEvent = { id: null, kind: "message", data: "" };
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment that keeps the connection open
    const value = line.slice(colon + 1).replace(/^ /, "");
    const field = line.slice(0, colon);
    if (field === "id") event.id = value;
    else if (field === "event") event.kind = value;
    else if (field === "data") data.push(value);
  }
  event.data = data.join("\n");
  return data.length ? event : null;
}

/** Save a file of the server. With a token it is fetched, because a link cannot send one. */
export async function download(path: string, name: string, accept?: string): Promise<void> {
  const response = await request(path, accept ? { headers: { Accept: accept } } : {});
  saveBlob(await response.blob(), name);
}

export function saveBlob(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// The option of the library and the command; this page has a box for it.
const ALLOW_MISMATCH = /\s*allow_mismatch=[^.]*\.?/g;

export function problemText(error: Record<string, unknown>): string {
  const text = String(error.detail ?? error.title ?? "the run has failed");
  return sentence(text.replace(ALLOW_MISMATCH, ""));
}
