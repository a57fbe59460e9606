import {
  getJson,
  isAbort,
  type Model,
  messageOf,
  type Preprocess,
  type Preview,
  Problem,
  persistently,
  postJson,
  type Recalibration,
  type RecalibrationIn,
  send,
} from "./api";
import { NOTHING, type Picked, type Selection } from "./files";
import { stem } from "./format";
import { type Samples, sample } from "./samples";
import { Store } from "./store";
import { startUpload } from "./upload";

const MODEL_KEY = "bnrecal-model";

/** The preprocessing that was chosen: `auto` takes the closest preset. */
export type Choice = "auto" | "custom" | (string & {});

export interface PreviewState {
  loading: boolean;
  error: string | null;
  data: Preview | null;
  samples: Samples | null;
}

/** A new recalibration while it is prepared; it survives a look at other views. */
export interface Draft {
  model: Model | null;
  modelName: string;
  /** Share of the model that has been sent; null when none is being sent. */
  modelSent: number | null;
  modelMessage: string | null;
  modelError: string | null;
  target: Selection;
  source: Selection;
  preview: PreviewState;
  choice: Choice;
  custom: string;
  height: number;
  width: number;
  name: string;
  estimator: "auto" | "replace" | "shrink";
  varied: boolean;
  allowMismatch: boolean;
  starting: boolean;
  startError: string | null;
}

const NO_PREVIEW: PreviewState = { loading: false, error: null, data: null, samples: null };

const EMPTY: Draft = {
  model: null,
  modelName: "",
  modelSent: null,
  modelMessage: null,
  modelError: null,
  target: NOTHING,
  source: NOTHING,
  preview: NO_PREVIEW,
  choice: "auto",
  custom: '{"resize": 256, "crop": 224}',
  height: 224,
  width: 224,
  name: "",
  estimator: "auto",
  varied: false,
  allowMismatch: false,
  starting: false,
  startError: null,
};

export const draft = new Store<Draft>(EMPTY);

let sendingModel: AbortController | null = null;
let previewing: AbortController | null = null;

/** Return to the model that this tab has uploaded before it was loaded again. */
export async function restoreModel(): Promise<void> {
  const kept = sessionStorage.getItem(MODEL_KEY);
  if (kept === null || draft.value.model !== null) return;
  const { id, name } = JSON.parse(kept) as { id: string; name: string };
  try {
    const model = await getJson<Model>(`/v1/models/${id}`);
    if (draft.value.model === null) draft.update({ model, modelName: name });
  } catch {
    sessionStorage.removeItem(MODEL_KEY); // it was deleted
  }
}

/** Return the file name of a model that this tab has uploaded last; null for any other. */
export function keptModelName(id: string): string | null {
  const kept = JSON.parse(sessionStorage.getItem(MODEL_KEY) ?? "null") as {
    id: string;
    name: string;
  } | null;
  return kept?.id === id ? kept.name : null;
}

export async function sendModel(file: File): Promise<void> {
  sendingModel?.abort();
  const sending = new AbortController();
  sendingModel = sending;
  const type = /\.zip$/i.test(file.name) ? "application/zip" : "application/octet-stream";
  draft.update({ modelName: file.name, modelSent: 0, modelMessage: null, modelError: null });
  try {
    const model = await persistently(
      () =>
        send<Model>("/v1/models", {
          method: "POST",
          type,
          body: file,
          signal: sending.signal,
          onSent: (sent) => draft.update({ modelSent: file.size ? sent / file.size : 1 }),
        }),
      (problem) => draft.update({ modelMessage: problem && `${problem.message} Trying again.` }),
      sending.signal,
    );
    sessionStorage.setItem(MODEL_KEY, JSON.stringify({ id: model.id, name: file.name }));
    draft.update({ model, modelSent: null });
    await preview();
  } catch (error) {
    if (!isAbort(error)) draft.update({ modelSent: null, modelError: messageOf(error) });
  }
}

export function dropModel(): void {
  sendingModel?.abort();
  previewing?.abort();
  sessionStorage.removeItem(MODEL_KEY);
  draft.update({ ...EMPTY, target: draft.value.target, name: draft.value.name });
}

/** Add files to those that were chosen before. */
export async function addFiles(stream: "target" | "source", found: Selection): Promise<void> {
  const before = draft.value[stream];
  const known = new Set(before.picked.map((one) => one.path));
  const refused = new Set(before.skipped.map((one) => one.path));
  draft.update({
    [stream]: {
      picked: [...before.picked, ...found.picked.filter((one) => !known.has(one.path))],
      skipped: [...before.skipped, ...found.skipped.filter((one) => !refused.has(one.path))],
    },
  });
  if (stream === "target") await preview();
}

export async function clearFiles(stream: "target" | "source"): Promise<void> {
  draft.update({ [stream]: NOTHING });
  if (stream === "target") draft.update({ preview: NO_PREVIEW });
}

/** Return the name of what was chosen: a folder, a file, or a number of files. */
export function nameOf(picked: readonly Picked[]): string {
  const folders = new Set(picked.map((one) => one.path.split("/")[0]));
  const [first] = folders;
  if (folders.size === 1 && first) return stem(first);
  return `${picked.length} files`;
}

export function holdsImages(picked: readonly Picked[]): boolean {
  return picked.some((one) => one.kind !== "array");
}

/** Return whether the model leaves the size of its images open. */
export function isSizeOpen(model: Model): boolean {
  const shape = model.inputs.length === 1 ? model.inputs[0]?.shape : null;
  if (shape?.length !== 4) return false;
  return shape.slice(1).filter((side) => typeof side === "number").length < 3;
}

/** Ask the server what the model sees of a few samples. */
export async function preview(): Promise<void> {
  previewing?.abort();
  const { model, target, choice, custom, height, width, preview: before } = draft.value;
  if (model === null || target.picked.length === 0) return;
  const asking = new AbortController();
  previewing = asking;
  draft.update({ preview: { ...before, loading: true, error: null } });
  try {
    const samples = await sample(target.picked);
    if (samples === null) {
      const error = "The file is too large for a preview. State the preprocessing as JSON.";
      draft.update({ preview: { ...NO_PREVIEW, error } });
      return;
    }
    const form = formOf(choice, custom, before.data);
    const query = new URLSearchParams();
    if (form !== null && holdsImages(target.picked)) query.set("preprocess", JSON.stringify(form));
    if (isSizeOpen(model)) {
      query.set("height", String(height));
      query.set("width", String(width));
    }
    const data = await persistently(
      () =>
        send<Preview>(`/v1/models/${model.id}/preview?${query}`, {
          method: "POST",
          type: samples.type,
          body: samples.body,
          signal: asking.signal,
        }),
      () => undefined,
      asking.signal,
    );
    // A preview of one preprocessing keeps the ranking of all.
    draft.update({ preview: { loading: false, error: null, data, samples } });
  } catch (error) {
    if (isAbort(error)) return;
    const { data, samples } = draft.value.preview;
    draft.update({ preview: { loading: false, error: messageOf(error), data, samples } });
  }
}

/** Return the form of a choice; null to let the server take the closest preset. */
function formOf(choice: Choice, custom: string, data: Preview | null): unknown {
  if (choice === "custom") {
    try {
      return JSON.parse(custom);
    } catch {
      throw new Problem("The preprocessing is not valid JSON.", 422, "", false);
    }
  }
  if (choice === "auto" || data === null) return null;
  return formOfPreset(choice, data);
}

/** Return a preset, in the order of colors that fits best. */
function formOfPreset(name: string, data: Preview): Preprocess | null {
  const ranked = data.ranking.find((one) => one.name === name);
  return ranked?.preprocess ?? data.presets[name] ?? null;
}

export async function choose(choice: Choice): Promise<void> {
  draft.update({ choice });
  if (choice !== "custom") await preview();
}

/** Open the recalibration and send its files; return its id, or null if it was refused. */
export async function start(): Promise<string | null> {
  const now = draft.value;
  if (now.model === null) return null;
  draft.update({ starting: true, startError: null });
  try {
    let preprocess: unknown = null;
    if (holdsImages(now.target.picked)) {
      preprocess =
        now.choice === "custom" ? JSON.parse(now.custom) : (now.preview.data?.preprocess ?? null);
    }
    const asked = {
      model: now.model.id,
      name: (now.name || suggestedName(now)).slice(0, 200),
      preprocess,
      estimator:
        now.estimator === "auto" && now.varied
          ? { name: "auto", varied: true }
          : { name: now.estimator },
      allow_mismatch: now.allowMismatch,
    } as unknown as RecalibrationIn;
    const created = await postJson<Recalibration>("/v1/recalibrations", asked);
    startUpload(
      created.id,
      { batches: now.target.picked, "source-batches": now.source.picked },
      { model: now.modelName, data: nameOf(now.target.picked) },
    );
    draft.set({ ...EMPTY, model: now.model, modelName: now.modelName });
    return created.id;
  } catch (error) {
    draft.update({ starting: false, startError: messageOf(error) });
    return null;
  }
}

export function suggestedName(now: Draft): string {
  return `${stem(now.modelName)} on ${nameOf(now.target.picked)}`;
}
