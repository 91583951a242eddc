import { Problem, api } from "./fdc.js";

/**
 * A sync with Google that a page watches, whatever it draws itself with. See react.js for the hook.
 *
 * What it shows is always what the server says of the job. Events of a connection make it ask at once; without them it asks every few
 * seconds by itself, so it also works where nothing can be pushed.
 */

/**
 * @typedef {object} SyncState
 * @property {"idle"|"starting"|"pending"|"processing"|"completed"|"failed"|"cancelled"} status of the job; idle: there is none
 * @property {string | null} jobId
 * @property {{phase: string, done: number, total: number} | null} progress total is 0 while unknown
 * @property {any} result the counts of a job that ended
 * @property {Problem | null} error why it can't be started or can't be followed, or has failed
 */

/** @type {SyncState} */
const idle = { status: "idle", jobId: null, progress: null, result: null, error: null };
const ends = ["completed", "failed", "cancelled"];
const often = 2_000; // between two questions while nothing is pushed
const seldom = 30_000; // and while events come

export class GoogleSync {
  #state = idle;
  /** @type {Set<() => void>} */
  #watchers = new Set();
  /** @type {(() => void) | undefined} */
  #unlisten;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #next;
  #asking = false;
  #askAgain = false;
  #live;
  #base;

  /** @param {{live?: import("./fdc.js").Connection, base?: string}} [options] */
  constructor({ live, base = "" } = {}) {
    this.#live = live;
    this.#base = base;
  }

  /** The newest state: another object whenever something has changed. */
  snapshot = () => this.#state;

  /**
   * Calls changed after each change. While somebody watches, a job that is under way already, started here or elsewhere, is
   * followed. What it returns ends the watching.
   * @param {() => void} changed
   */
  watch = (changed) => {
    this.#watchers.add(changed);
    if (this.#watchers.size === 1) this.#begin();
    return () => {
      this.#watchers.delete(changed);
      if (this.#watchers.size > 0) return;
      clearTimeout(this.#next);
      this.#unlisten?.();
      this.#unlisten = undefined;
    };
  };

  /**
   * Starts a sync. It never throws: what is wrong is in the state.
   * @param {{type?: "tasks"|"calendar"|"full", mode?: "incremental"|"resync", force?: boolean}} [ask]
   */
  start = async (ask = {}) => {
    this.#set({ ...idle, status: "starting" });
    try {
      const { jobId, status } = await api("/api/google/sync", { base: this.#base, method: "POST", body: ask });
      this.#set({ ...idle, status: ends.includes(status) ? status : "pending", jobId });
      await this.#ask();
    } catch (err) {
      this.#set({ ...idle, error: problem(err) });
    }
  };

  /** Asks for the end of the job; it ends at its next page. */
  cancel = async () => {
    const { jobId } = this.#state;
    if (!jobId) return;
    try {
      await api("/api/google/sync?jobId=" + jobId, { base: this.#base, method: "DELETE" });
      await this.#ask();
    } catch (err) {
      this.#set({ ...this.#state, error: problem(err) });
    }
  };

  #begin() {
    this.#unlisten = this.#live?.listen({
      onProgress: (event) => {
        const { jobId, phase, done, total } = event.data;
        if (event.type !== "fdc.sync.progress.v1" || jobId !== this.#state.jobId || ends.includes(this.#state.status)) return;
        this.#set({ ...this.#state, status: "processing", progress: { phase, done, total } });
      },
      onEvent: (event) => {
        if (!event.type.startsWith("fdc.sync.")) return;
        if (event.data.jobId === this.#state.jobId) this.#ask();
        else if (event.type === "fdc.sync.started.v1" && this.#state.status !== "starting") this.#follow(event.data.jobId);
      },
      onResync: () => this.#state.jobId ? this.#ask() : this.#find(),
    });
    if (this.#state.jobId) this.#ask();
    else this.#find();
  }

  /** @param {string} jobId */
  #follow(jobId) {
    this.#set({ ...idle, status: "pending", jobId });
    this.#ask();
  }

  /** Looks for a job that is under way. */
  async #find() {
    const found = await api("/api/google/sync", { base: this.#base }).catch(() => null);
    if (found?.activeJobId && this.#state.status === "idle") this.#follow(found.activeJobId);
  }

  /** Asks how the job is, one question at a time, and later again unless it has ended. */
  async #ask() {
    if (this.#asking) {
      this.#askAgain = true;
      return;
    }
    const { jobId } = this.#state;
    if (!jobId || ends.includes(this.#state.status)) return;
    clearTimeout(this.#next);
    this.#asking = true;
    let wait = this.#live?.status === "live" ? seldom : often;
    try {
      const job = await api("/api/google/sync?jobId=" + jobId, { base: this.#base });
      if (jobId === this.#state.jobId) {
        const { status, progress = null, result = null, error } = job;
        this.#set({
          status, jobId, progress: ends.includes(status) ? null : progress, result,
          error: error ? new Problem({ type: error.code, detail: error.message }) : null,
        });
      }
    } catch (err) {
      const { retryAfter } = problem(err);
      wait = Math.max(wait, retryAfter * 1000);
      this.#set({ ...this.#state, error: problem(err) });
    }
    this.#asking = false;
    if (this.#askAgain) {
      this.#askAgain = false;
      this.#ask();
    } else if (this.#watchers.size > 0) {
      this.#next = setTimeout(() => this.#ask(), wait);
    }
  }

  /** @param {SyncState} state */
  #set(state) {
    this.#state = state;
    for (const changed of [...this.#watchers]) changed();
  }
}

/** @param {unknown} err */
function problem(err) { return err instanceof Problem ? err : new Problem({ detail: String(err) }); }
