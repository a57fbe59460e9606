import { useEffect, useState } from "preact/hooks";

/** A picture that was chosen on this device; its name where the browser cannot show it (TIFF). */
export function FilePicture({ file, alt }: { file: File; alt: string }) {
  const [url, setUrl] = useState<string | null>(null);
  const [shown, setShown] = useState(true);
  useEffect(() => {
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  if (!shown) return <span class="picture none">No preview in this browser</span>;
  if (url === null) return <span class="picture" />;
  return <img class="picture" src={url} alt={alt} onError={() => setShown(false)} />;
}
