import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort, messageOf, request } from "../api";
import { Notice } from "./notice";

/**
 * The report of the server in a frame without scripts; without them, it only lacks its search.
 *
 * A frame cannot send a token, so the document is fetched. The policy of this page allows no style
 * sheet in a document; the report's own is applied as a constructed one.
 */
export function ReportFrame({ id }: { id: string }) {
  const [html, setHtml] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const frame = useRef<HTMLIFrameElement>(null);

  useEffect(() => {
    const stop = new AbortController();
    const load = async () => {
      try {
        const init = { headers: { Accept: "text/html" }, signal: stop.signal };
        const response = await request(`/v1/recalibrations/${id}/report`, init);
        setHtml(await response.text());
      } catch (failure) {
        if (!isAbort(failure)) setError(messageOf(failure));
      }
    };
    void load();
    return () => stop.abort();
  }, [id]);

  if (error !== null) {
    return (
      <Notice tone="bad" title="The report cannot be shown" urgent>
        <p>{error}</p>
      </Notice>
    );
  }
  if (html === null) return <p class="working">Loading the report…</p>;
  const { markup, styles } = separate(html);
  return (
    <iframe
      ref={frame}
      class="report"
      title="Report"
      sandbox="allow-same-origin"
      srcdoc={markup}
      onLoad={() => frame.current && dress(frame.current, styles)}
    />
  );
}

const STYLE = /<style[^>]*>([\s\S]*?)<\/style>/g;
const SCRIPT = /<script[^>]*>[\s\S]*?<\/script>/g;
// What the view above the frame shows already.
const SHOWN_ABOVE = "body > header, main > .verdict { display: none } body { padding-top: 0 }";

/** Take the style sheets and scripts out of a document, whose text is escaped. */
function separate(html: string): { markup: string; styles: string[] } {
  const styles = [...html.matchAll(STYLE)].map((found) => found[1] ?? "");
  return { markup: html.replace(STYLE, "").replace(SCRIPT, ""), styles: [...styles, SHOWN_ABOVE] };
}

/** Apply the style sheets, and keep the frame as high as its document. */
function dress(frame: HTMLIFrameElement, styles: string[]): void {
  const inner = frame.contentDocument;
  const view = frame.contentWindow as (Window & typeof globalThis) | null;
  if (inner === null || view === null) return;
  inner.adoptedStyleSheets = styles.map((text) => {
    const sheet = new view.CSSStyleSheet();
    sheet.replaceSync(text);
    return sheet;
  });
  const fit = () => {
    frame.style.height = `${Math.ceil(inner.documentElement.getBoundingClientRect().height) + 2}px`;
  };
  new ResizeObserver(fit).observe(inner.documentElement);
  fit();
}
