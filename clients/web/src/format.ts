const COUNT = new Intl.NumberFormat("en-US");
const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function count(value: number, one: string, many = `${one}s`): string {
  return `${COUNT.format(value)} ${value === 1 ? one : many}`;
}

export function bytes(value: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let rest = value;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${units[unit]}`;
}

export function sigma(value: number): string {
  return `${value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} σ`;
}

export function percent(value: number): string {
  const shown = 100 * value;
  if (shown > 99 && shown < 100) return ">99 %";
  return shown > 0 && shown < 1 ? "<1 %" : `${Math.round(shown)} %`;
}

/** Return a duration at the start of a sentence, coarse enough not to jump. */
export function duration(seconds: number): string {
  if (seconds < 10) return "A few seconds";
  if (seconds < 55) return `About ${Math.round(seconds / 5) * 5} seconds`;
  if (seconds < 3300) return `About ${count(Math.max(1, Math.round(seconds / 60)), "minute")}`;
  return `About ${count(Math.round(seconds / 360) / 10, "hour")}`;
}

/** Return a number with two decimals and a minus sign. */
export function decimal(value: number): string {
  return value.toFixed(2).replace("-", "−");
}

/** Return the name of a file without its folders. */
export function baseName(path: string): string {
  return path.split("/").pop() || path;
}

export function when(text: string): string {
  return WHEN.format(new Date(text));
}

export function shape(axes: readonly (number | string | null)[] | null): string {
  return axes === null ? "any shape" : axes.map((axis) => axis ?? "any").join(" × ");
}

export function stem(name: string): string {
  return name.replace(/\.[^.]*$/, "");
}
