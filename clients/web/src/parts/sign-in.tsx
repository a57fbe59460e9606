import { useEffect, useRef, useState } from "preact/hooks";
import { signIn } from "../session";

/** Ask for the token over the view, which keeps its state and continues afterwards. */
export function SignIn({ rejected }: { rejected: boolean }) {
  const [token, setToken] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      class="sign-in"
      aria-labelledby="sign-in"
      onCancel={(event) => event.preventDefault()}
    >
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim()) signIn(token.trim());
        }}
      >
        <h2 id="sign-in">Sign in</h2>
        {rejected ? (
          <p class="error" role="alert">
            The server does not accept your token: it was revoked, or has a typing error. Enter
            another one; what you were doing continues.
          </p>
        ) : (
          <p>This server asks for a token. Its operator creates one for you.</p>
        )}
        <label for="token">Token</label>
        <input
          id="token"
          type="password"
          autocomplete="current-password"
          required
          value={token}
          onInput={(event) => setToken(event.currentTarget.value)}
        />
        <p class="hint">It is kept in this tab only, and forgotten when you close it.</p>
        <button type="submit" class="button primary">
          Sign in
        </button>
      </form>
    </dialog>
  );
}
