const PATHS = {
  brand: "M2 18c4.5 0 3-12 7-12s2.500 12 6.500 12M8 18c4.500 0 3-14 7-14s2.500 14 7 14",
  model: "M12 3l8 4.500v9L12 21l-8-4.500v-9zM12 12l8-4.500M12 12v9M12 12L4 7.500",
  images: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01",
  check: "M5 12.500l4.500 4.500L19 7.500",
  warn: "M12 4l9 16H3zM12 10v4M12 17h.01",
  stop: "M8 3h8l5 5v8l-5 5H8l-5-5V8zM9 9l6 6M15 9l-6 6",
  info: "M12 21a9 9 0 100-18 9 9 0 000 18zM12 11v5M12 8h.01",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  search: "M11 18a7 7 0 100-14 7 7 0 000 14zM16 16l5 5",
  close: "M6 6l12 12M18 6L6 18",
};

export type IconName = keyof typeof PATHS;

/** A decoration: the text beside it says the same. */
export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
