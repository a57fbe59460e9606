import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./icon";

export type Tone = "good" | "warn" | "bad" | "info";

const ICONS: Record<Tone, IconName> = { good: "check", warn: "warn", bad: "stop", info: "info" };

interface Props {
  tone: Tone;
  title?: string;
  /** Whether a screen reader reads it at once. */
  urgent?: boolean;
  children?: ComponentChildren;
}

export function Notice({ tone, title, urgent, children }: Props) {
  return (
    <div class={`notice ${tone}`} role={urgent ? "alert" : undefined}>
      <Icon name={ICONS[tone]} />
      <div>
        {title !== undefined && <p class="title">{title}</p>}
        {children}
      </div>
    </div>
  );
}
