import { useEffect, useState } from "preact/hooks";

/** A value that components can watch. */
export class Store<T> {
  #watchers = new Set<() => void>();

  constructor(public value: T) {}

  set(value: T): void {
    this.value = value;
    for (const watcher of [...this.#watchers]) watcher();
  }

  update(change: Partial<T>): void {
    this.set({ ...this.value, ...change });
  }

  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}

/** Return the value of a store, and render again when it changes. */
export function useStore<T>(store: Store<T>): T {
  const [, render] = useState(0);
  useEffect(() => {
    let frame = 0;
    // Uploads change their store many times a second; one rendering per frame is enough.
    const stop = store.watch(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => render((count) => count + 1));
    });
    render((count) => count + 1);
    return () => {
      stop();
      cancelAnimationFrame(frame);
    };
  }, [store]);
  return store.value;
}
