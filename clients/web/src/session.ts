import { Store } from "./store";

const KEY = "bnrecal-token";

interface Session {
  /** Sent with every request; null where the server asks for none, or before it was entered. */
  token: string | null;
  /** Whether the server has rejected a request without a valid token. */
  asking: boolean;
}

// Kept for this tab only: it is gone when the tab is closed, and other tabs do not see it.
export const session = new Store<Session>({ token: sessionStorage.getItem(KEY), asking: false });

let waiting: Promise<void> | null = null;
let proceed: (() => void) | null = null;

/** Ask for a token; resolves when one was entered. Requests made meanwhile wait for the same. */
export function askForToken(rejected: string | null): Promise<void> {
  if (rejected !== session.value.token) return Promise.resolve(); // replaced in the meantime
  waiting ??= new Promise((resolve) => {
    proceed = resolve;
  });
  session.update({ asking: true });
  return waiting;
}

export function signIn(token: string): void {
  sessionStorage.setItem(KEY, token);
  session.set({ token, asking: false });
  proceed?.();
  waiting = null;
  proceed = null;
}

export function signOut(): void {
  sessionStorage.clear();
  location.assign("/"); // without a fragment, so that the page is loaded again
}
