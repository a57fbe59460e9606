import { useEffect, useRef } from "preact/hooks";

interface Props {
  title: string;
  text: string;
  action: string;
  onConfirm: () => void;
  onClose: () => void;
}

export function Confirm({ title, text, action, onConfirm, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby="confirm"
      aria-describedby="confirm-text"
      onClose={onClose}
    >
      <h2 id="confirm">{title}</h2>
      <p id="confirm-text">{text}</p>
      <div class="actions end">
        <button type="button" class="button quiet" onClick={() => dialog.current?.close()}>
          Keep it
        </button>
        <button
          type="button"
          class="button danger"
          onClick={() => {
            onConfirm();
            dialog.current?.close();
          }}
        >
          {action}
        </button>
      </div>
    </dialog>
  );
}
