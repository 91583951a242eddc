import { useMemo, useSyncExternalStore } from "react";

import { GoogleSync } from "./sync.js";

/**
 * A hook for a sync with Google: what starts it, and how it is. A sync that is under way already is followed, wherever it was
 * started. Give it the page's connection, so that it hears of progress; without one it asks every other second.
 *
 *     const { startSync, status, progress, error } = useGoogleSync({ live });
 *
 * @param {{live?: import("./fdc.js").Connection, base?: string}} [options]
 */
export function useGoogleSync({ live, base } = {}) {
  const sync = useMemo(() => new GoogleSync({ live, base }), [live, base]);
  const state = useSyncExternalStore(sync.watch, sync.snapshot);
  return { startSync: sync.start, cancelSync: sync.cancel, ...state };
}
