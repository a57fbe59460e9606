interface Props {
  label: string;
  /** From 0 to 1; null while it is unknown. */
  share: number | null;
}

export function Progress({ label, share }: Props) {
  return share === null ? (
    <progress aria-label={label} />
  ) : (
    <progress aria-label={label} value={share} max={1} />
  );
}
