/** A file that was chosen. `path` is relative to what was dropped. */
export interface Picked {
  path: string;
  file: File;
  kind: "image" | "array" | "archive";
  type: string;
}

/** A file that is not used, and why. */
export interface Skipped {
  path: string;
  reason: string;
}

export interface Selection {
  picked: Picked[];
  skipped: Skipped[];
}

export const NOTHING: Selection = { picked: [], skipped: [] };

const KINDS: Record<string, [Picked["kind"], string]> = {
  jpg: ["image", "image/jpeg"],
  jpeg: ["image", "image/jpeg"],
  png: ["image", "image/png"],
  webp: ["image", "image/webp"],
  bmp: ["image", "image/bmp"],
  gif: ["image", "image/gif"],
  tif: ["image", "image/tiff"],
  tiff: ["image", "image/tiff"],
  npy: ["array", "application/x-npy"],
  npz: ["array", "application/x-npz"],
  safetensors: ["array", "application/vnd.safetensors"],
  arrow: ["array", "application/vnd.apache.arrow.stream"],
  arrows: ["array", "application/vnd.apache.arrow.stream"],
  tar: ["archive", "application/x-tar"],
  zip: ["archive", "application/zip"],
};

export const ACCEPTED = Object.keys(KINDS)
  .map((suffix) => `.${suffix}`)
  .join(",");

const REASONS: Record<string, string> = {
  heic: "HEIC is not supported: export it as JPEG",
  avif: "AVIF is not supported: export it as JPEG",
  gz: "compressed archives are not supported: unpack it, or use zip",
  tgz: "compressed archives are not supported: unpack it, or use zip",
  onnx: "this is a model, not data",
};

// Files that systems leave in folders of pictures.
const HIDDEN = /(^|\/)(\.[^/]*|__MACOSX|Thumbs\.db|desktop\.ini)(\/|$)/;

/** Sort files into those that can be sent and those that cannot. */
export function classify(files: readonly { path: string; file: File }[]): Selection {
  const selection: Selection = { picked: [], skipped: [] };
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  for (const { path, file } of sorted) {
    if (HIDDEN.test(path)) continue;
    const suffix = path.toLowerCase().split(".").pop() ?? "";
    const known = KINDS[suffix];
    if (known === undefined) {
      selection.skipped.push({ path, reason: REASONS[suffix] ?? "not an image, array or archive" });
    } else if (file.size === 0) {
      selection.skipped.push({ path, reason: "the file is empty" });
    } else {
      selection.picked.push({ path, file, kind: known[0], type: known[1] });
    }
  }
  return selection;
}

/** Return the files of an `<input type="file">`. */
export function chosen(list: FileList | null): { path: string; file: File }[] {
  return [...(list ?? [])].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** Return the files that were dropped, those in folders included. */
export async function dropped(transfer: DataTransfer): Promise<{ path: string; file: File }[]> {
  // The entries must be taken before the first wait: then the list is emptied.
  const entries = [...transfer.items]
    .map((item) => item.webkitGetAsEntry())
    .filter((entry) => entry !== null);
  if (entries.length === 0) return chosen(transfer.files);
  return (await Promise.all(entries.map(walk))).flat();
}

async function walk(entry: FileSystemEntry): Promise<{ path: string; file: File }[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) =>
      (entry as FileSystemFileEntry).file(resolve, reject),
    );
    return [{ path: entry.fullPath.replace(/^\//, ""), file }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: FileSystemEntry[] = [];
  for (;;) {
    // A reader returns at most 100 entries at a time.
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    );
    if (some.length === 0) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(walk))).flat();
}
