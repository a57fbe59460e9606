import { Store } from "./store";

/** The view that the address names: `#/`, `#/recalibrations` or `#/recalibrations/<id>`. */
export type Route = { view: "new" } | { view: "list" } | { view: "one"; id: string };

function read(): Route {
  const [, first, id] = location.hash.split("/");
  if (first !== "recalibrations") return { view: "new" };
  return id ? { view: "one", id: decodeURIComponent(id) } : { view: "list" };
}

export const route = new Store<Route>(read());

window.addEventListener("hashchange", () => route.set(read()));

export function go(hash: string): void {
  location.hash = hash;
}

export function linkTo(id: string): string {
  return `#/recalibrations/${id}`;
}
