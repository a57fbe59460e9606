import type { ComponentChildren } from "preact";
import { useId, useRef, useState } from "preact/hooks";
import { chosen, dropped } from "../files";
import { Icon, type IconName } from "./icon";

interface Props {
  icon: IconName;
  title: string;
  hint: ComponentChildren;
  accept: string;
  /** Label of the button that opens the file dialog. */
  action: string;
  many?: boolean;
  onFiles: (files: { path: string; file: File }[]) => void;
}

/** A place for files: drop them, or choose files or, where several are taken, a folder. */
export function Drop({ icon, title, hint, accept, action, many, onFiles }: Props) {
  const [over, setOver] = useState(false);
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const id = useId();

  const take = (event: Event) => {
    const input = event.currentTarget as HTMLInputElement;
    const found = chosen(input.files);
    input.value = ""; // so that the same files can be chosen again
    if (found.length) onFiles(found);
  };

  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset would be announced as a form
    <div
      class={`drop ${over ? "over" : ""}`}
      role="group"
      aria-labelledby={id}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={async (event) => {
        event.preventDefault();
        setOver(false);
        if (event.dataTransfer) onFiles(await dropped(event.dataTransfer));
      }}
    >
      <Icon name={icon} />
      <p class="title" id={id}>
        {title}
      </p>
      <p class="hint">{hint}</p>
      <div class="actions">
        <button type="button" class="button" onClick={() => files.current?.click()}>
          {action}
        </button>
        {many && (
          <button type="button" class="button quiet" onClick={() => folder.current?.click()}>
            Choose a folder
          </button>
        )}
      </div>
      <input
        ref={files}
        type="file"
        hidden
        accept={accept}
        multiple={many ?? false}
        onChange={take}
        aria-label={action}
      />
      {many && (
        <input
          ref={(input) => {
            folder.current = input;
            input?.setAttribute("webkitdirectory", "");
          }}
          type="file"
          hidden
          onChange={take}
          aria-label="Choose a folder"
        />
      )}
    </div>
  );
}
