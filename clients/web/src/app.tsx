import { useEffect, useRef } from "preact/hooks";
import { Icon } from "./parts/icon";
import { SignIn } from "./parts/sign-in";
import { route } from "./router";
import { session, signOut } from "./session";
import { useStore } from "./store";
import { isSending } from "./upload";
import { ListView } from "./views/list";
import { NewView } from "./views/new";
import { OneView } from "./views/one";

const TITLES = { new: "New recalibration", list: "Recalibrations", one: "Recalibration" };

export function App() {
  const current = useStore(route);
  const { asking, token } = useStore(session);
  const main = useRef<HTMLElement>(null);
  const shown = useRef<string | null>(null);
  const key = current.view === "one" ? current.id : current.view;

  useEffect(() => {
    document.title = `${TITLES[current.view]} · bnrecal`;
    // Move the focus as a new page would, but not when the first view appears.
    if (shown.current !== null && shown.current !== key) {
      main.current?.focus();
      window.scrollTo(0, 0);
    }
    shown.current = key;
  }, [current.view, key]);

  useEffect(() => {
    const warn = (event: BeforeUnloadEvent) => {
      if (isSending()) event.preventDefault();
    };
    // A file that misses its target would replace the page.
    const keep = (event: DragEvent) => event.preventDefault();
    window.addEventListener("beforeunload", warn);
    window.addEventListener("dragover", keep);
    window.addEventListener("drop", keep);
    return () => {
      window.removeEventListener("beforeunload", warn);
      window.removeEventListener("dragover", keep);
      window.removeEventListener("drop", keep);
    };
  }, []);

  return (
    <>
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to content
      </button>
      <header class="top">
        <div class="wide">
          <a class="brand" href="#/">
            <Icon name="brand" /> bnrecal
          </a>
          <nav aria-label="Main">
            <a href="#/" aria-current={current.view === "new" ? "page" : undefined}>
              New
            </a>
            <a href="#/recalibrations" aria-current={current.view === "list" ? "page" : undefined}>
              Recalibrations
            </a>
            <a href="/docs">API</a>
            {token !== null && (
              <button type="button" class="link" onClick={signOut}>
                Sign out
              </button>
            )}
          </nav>
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1} class="wide">
        {current.view === "new" && <NewView />}
        {current.view === "list" && <ListView />}
        {current.view === "one" && <OneView key={current.id} id={current.id} />}
      </main>
      {asking && <SignIn rejected={token !== null} />}
    </>
  );
}
