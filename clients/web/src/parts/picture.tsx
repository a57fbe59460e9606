import { useEffect, useState } from "preact/hooks";

/** A picture that was chosen on this device. */
export function FilePicture({ file, alt }: { file: File; alt: string }) {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  return url === null ? <span class="picture" /> : <img class="picture" src={url} alt={alt} />;
}
