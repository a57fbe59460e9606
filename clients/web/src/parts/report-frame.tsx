import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { showLayers } from "../../../../bn_ops/diagnostics/html/templates/report.js";
import { isAbort, messageOf, request } from "../api";
import { Notice } from "./notice";

// A list of fewer layers is seen at a glance; the report, too, has no search then.
const SEARCHED = 13;
const GAP_PX = 12;

/**
 * The report of the server in a frame without scripts, and above it the search over its layers.
 *
 * A frame cannot send a token, so the document is fetched. The policy of this page allows no style
 * sheet in a document; the report's own is applied as a constructed one.
 */
export function ReportFrame({ id }: { id: string }) {
  const [html, setHtml] = useState<string | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [layers, setLayers] = useState(0);
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
    <>
      {layers >= SEARCHED && <LayerSearch frame={frame} />}
      <iframe
        ref={frame}
        class="report"
        title="Report"
        sandbox="allow-same-origin"
        srcdoc={markup}
        onLoad={() => {
          if (frame.current === null) return;
          dress(frame.current, styles);
          setLayers(rowsOf(frame.current));
        }}
      />
    </>
  );
}

function rowsOf(frame: HTMLIFrameElement): number {
  return frame.contentDocument?.querySelectorAll("table.layers tbody tr").length ?? 0;
}

/** Find layers in the report. It is outside the frame, where no browser restricts its events. */
function LayerSearch({ frame }: { frame: RefObject<HTMLIFrameElement | null> }) {
  const [hits, setHits] = useState("");
  const bar = useRef<HTMLElement>(null);
  const find = (text: string) => {
    const report = frame.current?.contentDocument;
    if (!report) return;
    setHits(showLayers(report, text));
    const section = report.querySelector("table.layers")?.closest("details:not(.stage)");
    if (!text.trim() || !section || !frame.current || !bar.current) return;
    const top = frame.current.getBoundingClientRect().top + section.getBoundingClientRect().top;
    window.scrollBy({ top: top - bar.current.offsetHeight - GAP_PX });
  };
  return (
    <search class="layer-search" ref={bar}>
      <label for="find-layer">Find a layer</label>
      <input
        id="find-layer"
        type="search"
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => find(event.currentTarget.value)}
      />
      <span class="hint" role="status">
        {hits}
      </span>
    </search>
  );
}

const STYLE = /<style[^>]*>([\s\S]*?)<\/style>/g;
const SCRIPT = /<script[^>]*>[\s\S]*?<\/script>/g;
// What the view above the frame shows already.
const SHOWN_ABOVE =
  "body > header, main > .verdict, .next > h2:first-child, .next > ol { display: none }";

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
