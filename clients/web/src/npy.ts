const MAGIC = "\u0093NUMPY";
const LONGEST_HEADER = 1 << 16;

/** What the header of a .npy file says about cutting it along its first axis. */
export interface Rows {
  rows: number;
  rowBytes: number;
  /** Offset of the first row. */
  start: number;
  /** Return the header of an array with another number of rows. */
  header: (rows: number) => Uint8Array<ArrayBuffer>;
}

/** Read the header of a .npy file; null where its rows do not follow each other in the file. */
export async function readRows(file: Blob): Promise<Rows | null> {
  const head = new Uint8Array(await file.slice(0, LONGEST_HEADER).arrayBuffer());
  if (head.length < 12 || latin1(head.subarray(0, 6)) !== MAGIC) return null;
  const view = new DataView(head.buffer);
  const long = (head[6] ?? 0) > 1;
  const prefix = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const text = latin1(head.subarray(prefix, prefix + length));
  const found = /'shape': \((\d+),([^)]*)\)/.exec(text);
  if (found === null || !/'fortran_order': False/.test(text)) return null;
  const rows = Number(found[1]);
  const data = file.size - prefix - length;
  if (rows === 0 || data % rows !== 0) return null;
  return {
    rows,
    rowBytes: data / rows,
    start: prefix + length,
    header: (wanted) => headerOf(text.replace(found[0], `'shape': (${wanted},${found[2]})`)),
  };
}

/** Return some rows of a .npy file as a file of its own. */
export function cut(file: Blob, rows: Rows, first: number, wanted: number): Blob {
  const start = rows.start + first * rows.rowBytes;
  return new Blob([rows.header(wanted), file.slice(start, start + wanted * rows.rowBytes)]);
}

function headerOf(text: string): Uint8Array<ArrayBuffer> {
  const dictionary = text.trimEnd();
  const padding = -(12 + dictionary.length + 1) & 63;
  const content = `${dictionary}${" ".repeat(padding)}\n`;
  const bytes = new Uint8Array(12 + content.length);
  bytes.set([0x93, ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)), 2, 0]);
  new DataView(bytes.buffer).setUint32(8, content.length, true);
  bytes.set(
    [...content].map((letter) => letter.charCodeAt(0)),
    12,
  );
  return bytes;
}

function latin1(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}
