const BLOCK = 512;

/** One file of an archive. */
export interface Entry {
  name: string;
  file: Blob;
}

/** Return a tar archive (ustar). The same files give the same bytes: it states no times or owners. */
export function tar(entries: readonly Entry[]): Blob {
  const parts: BlobPart[] = [];
  for (const { name, file } of entries) {
    parts.push(header(name, file.size), file, new Uint8Array(-file.size & (BLOCK - 1)));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts, { type: "application/x-tar" });
}

function header(name: string, size: number): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(BLOCK);
  const write = (text: string, offset: number) => block.set(new TextEncoder().encode(text), offset);
  write(name, 0);
  write("0000644\0", 100); // mode
  write("0000000\0", 108); // user
  write("0000000\0", 116); // group
  write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  write("00000000000\0", 136); // time
  write("        ", 148); // the checksum counts itself as spaces
  write("0", 156); // a regular file
  write("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}
