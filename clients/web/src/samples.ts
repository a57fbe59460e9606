import type { Picked } from "./files";
import { cut, readRows } from "./npy";
import { tar } from "./tar";

const MAX_SAMPLES = 32;
const MAX_IMAGE_BYTES = 48e6;
// The server's limit for samples that are not stored.
const MAX_FILE_BYTES = 256e6;

/** A few samples in one file, for a preview or for predictions. */
export interface Samples {
  body: Blob;
  type: string;
  /** The pictures by the name that the server uses for them; empty for arrays and archives. */
  pictures: Map<string, Picked>;
}

/** Return the name of an image in an archive that this page makes. */
export function memberName(number: number, path: string): string {
  const suffix = path.toLowerCase().split(".").pop();
  return `${String(number).padStart(7, "0")}.${suffix}`;
}

/** Return evenly spaced samples of what was chosen; null where its files are too large. */
export async function sample(
  picked: readonly Picked[],
  most = MAX_SAMPLES,
): Promise<Samples | null> {
  const images = picked.filter((one) => one.kind === "image");
  if (images.length) return sampleImages(images, most);
  const file = picked.find((one) => one.file.size <= MAX_FILE_BYTES) ?? picked[0];
  if (file === undefined) return null;
  const rows = file.type === "application/x-npy" ? await readRows(file.file) : null;
  if (rows !== null) {
    const body = cut(file.file, rows, 0, Math.min(most, rows.rows));
    if (body.size <= MAX_FILE_BYTES) return { body, type: file.type, pictures: new Map() };
  }
  if (file.file.size > MAX_FILE_BYTES) return null;
  return { body: file.file, type: file.type, pictures: new Map() };
}

function sampleImages(images: readonly Picked[], most: number): Samples {
  const step = Math.max(1, images.length / most);
  const pictures = new Map<string, Picked>();
  const entries = [];
  let size = 0;
  for (let place = 0; place < images.length; place += step) {
    const number = Math.floor(place);
    const image = images[number];
    if (image === undefined) break;
    size += image.file.size;
    if (entries.length && size > MAX_IMAGE_BYTES) break;
    const name = memberName(number, image.path);
    pictures.set(name, image);
    entries.push({ name, file: image.file });
  }
  return { body: tar(entries), type: "application/x-tar", pictures };
}

/** Return the text of the server with the name that the user knows. */
export function withPath(text: string, name: string, path: string): string {
  return text
    .replace(/^batch \d+, /i, "")
    .replace(/^(the )?image '[^']*':? */i, "")
    .replaceAll(name, path);
}
