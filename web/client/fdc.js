/**
 * Live updates of FDC for a browser: an ES module without dependencies and without a build step.
 *
 *     import { connect } from "./fdc.js";
 *     const live = connect({
 *       onResync: () => fetchEverything(), // at the start, and whenever updates were missed
 *       onEvent: (event) => apply(event),  // each once, in order
 *     });
 *
 * It reconnects by itself, with a random delay that grows to half a minute, and goes on after the last event that it has seen.
 * A WebSocket is tried first, then Server-Sent Events (some proxies let no WebSocket through); while neither can be had, onResync
 * is called every few seconds instead, which makes a page that fetches everything a page that polls. A page that was hidden or
 * offline connects anew as soon as it is back, since a browser does not notice a connection that died meanwhile.
 */

/**
 * An event as it is in the event catalogue (CloudEvents 1.0). Its data depends on the type.
 * @typedef {object} FdcEvent
 * @property {string} id
 * @property {string} type such as "fdc.task.updated.v1"
 * @property {string} subject
 * @property {string} time
 * @property {string} actorid
 * @property {string} [userid]
 * @property {string} [workspaceid]
 * @property {any} data
 */

/**
 * - connecting: not yet, or not any more; it tries.
 * - live: events come as they happen.
 * - polling: neither a WebSocket nor Server-Sent Events can be had; onResync is called every few seconds.
 * - ended: the session has ended; sign in and connect anew.
 * - closed: by close().
 * @typedef {"connecting"|"live"|"polling"|"ended"|"closed"} Status
 */

/**
 * What a page wants to hear. What a handler throws goes to the browser's error reporting and keeps nobody else from hearing.
 * @typedef {object} Handlers
 * @property {(event: FdcEvent, cursor: string) => void} [onEvent] each event once and in order
 * @property {(event: FdcEvent) => void} [onProgress] what is told once and not kept, such as how far a sync is
 * @property {(reason: string) => void} [onResync] fetch everything anew: "start", "polling", or why events were missed
 * @property {(status: Status) => void} [onStatus]
 */

/**
 * @typedef {object} Options
 * @property {string} [base] origin of the API; the page's own by default
 * @property {string} [cursor] where to go on, from an earlier connection's cursor: without it, onResync is called first
 * @property {number} [pollEvery] milliseconds between two calls of onResync while there is no other way; 10,000 by default
 */

const patience = 15_000; // for a connection to become ready
const longest = 30_000; // between two tries
const hiddenFor = 60_000; // after which a page connects anew

/** Connection is what connect returns. */
export class Connection {
  /** @type {Status} */
  #status = "connecting";
  /** @type {Set<Handlers>} */
  #handlers = new Set();
  /** @type {(() => void) | undefined} */
  #hangUp;
  #base;
  #cursor;
  #pollEvery;
  #failures = 0; // since the last "ready"
  #refused = 0; // of those, how often the server was there but let nothing through
  #stop = new AbortController(); // of everything that outlives one try
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retry;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #poll;
  #hidden = 0;

  /** @param {Options & Handlers} options */
  constructor({ base = location.origin, cursor, pollEvery = 10_000, ...handlers } = {}) {
    this.#base = base;
    this.#cursor = cursor;
    this.#pollEvery = pollEvery;
    this.#handlers.add(handlers);
    const { signal } = this.#stop;
    addEventListener("online", () => this.#again(), { signal });
    addEventListener("offline", () => this.#again(), { signal });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#hidden = Date.now();
      else if (Date.now() - this.#hidden > hiddenFor) this.#again();
    }, { signal });
    this.#open();
  }

  /** Where the connection is in the stream of events; undefined before the first "ready". */
  get cursor() { return this.#cursor; }

  get status() { return this.#status; }

  /**
   * Adds handlers; what it returns takes them away.
   * @param {Handlers} handlers
   * @returns {() => void}
   */
  listen(handlers) {
    this.#handlers.add(handlers);
    return () => { this.#handlers.delete(handlers); };
  }

  /** Ends the connection for good. */
  close() { this.#finish("closed"); }

  /** @param {"ended"|"closed"} status */
  #finish(status) {
    if (this.#over()) return;
    this.#stop.abort();
    this.#quiet();
    this.#stopPolling();
    this.#become(status);
  }

  #over() { return this.#status === "ended" || this.#status === "closed"; }

  #stopPolling() {
    clearInterval(this.#poll);
    this.#poll = undefined;
  }

  /** Ends the present try, and the waiting for the next one. */
  #quiet() {
    clearTimeout(this.#retry);
    const hangUp = this.#hangUp;
    this.#hangUp = undefined;
    hangUp?.();
  }

  /** Tries at once: the way may be another one now. */
  #again() {
    if (this.#over()) return;
    this.#quiet();
    this.#failures = 0;
    this.#open();
  }

  #open() {
    const query = this.#cursor ? "?cursor=" + encodeURIComponent(this.#cursor) : "";
    const wait = setTimeout(() => lost(), patience);
    let over = false;
    /** @param {number} [code] */
    const lost = (code) => {
      if (over) return;
      over = true;
      this.#quiet();
      this.#lost(code);
    };
    /** @param {any} message */
    const hear = (message) => {
      if (message.type === "ready") clearTimeout(wait);
      this.#hear(message);
    };
    // The second and third refusal are worth another way.
    const open = this.#refused % 4 < 2 ? overWebSocket : overEvents;
    const hangUp = open(this.#base + (open === overWebSocket ? "/api/ws" : "/api/events") + query, hear, lost);
    this.#hangUp = () => {
      over = true;
      clearTimeout(wait);
      hangUp();
    };
    if (this.#status !== "polling") this.#become("connecting");
  }

  /** @param {any} message */
  #hear(message) {
    switch (message.type) {
      case "ready": {
        const first = !this.#cursor;
        this.#cursor = message.cursor;
        this.#failures = this.#refused = 0;
        this.#stopPolling();
        this.#become("live");
        if (first) this.#tell("onResync", "start");
        break;
      }
      case "event":
        this.#cursor = message.cursor;
        this.#tell("onEvent", message.event, message.cursor);
        break;
      case "progress":
        this.#tell("onProgress", message.event);
        break;
      case "resync":
        this.#cursor = message.cursor;
        this.#tell("onResync", message.reason);
    }
  }

  /** @param {number} [code] of a WebSocket's end */
  async #lost(code) {
    if (this.#over()) return;
    if (code === 4001) return this.#finish("ended");
    const wasLive = this.#status === "live";
    if (this.#status !== "polling") this.#become("connecting");
    const most = Math.min(longest, 500 * 2 ** this.#failures++);
    this.#retry = setTimeout(() => this.#open(), most * Math.random());
    if (wasLive) return;
    // A browser does not say why a WebSocket was refused. The session does, and whether the server is there at all.
    const found = await fetch(this.#base + "/api/auth/session", { credentials: "include", signal: this.#stop.signal }).catch(() => null);
    if (this.#over() || !found || this.#status === "live") return;
    if (found.status === 401) return this.#finish("ended");
    if (found.ok && ++this.#refused >= 4 && !this.#poll) {
      this.#become("polling");
      const poll = () => this.#tell("onResync", "polling");
      this.#poll = setInterval(poll, this.#pollEvery);
      poll();
    }
  }

  /** @param {Status} status */
  #become(status) {
    if (status === this.#status) return;
    this.#status = status;
    this.#tell("onStatus", status);
  }

  /**
   * @param {keyof Handlers} what
   * @param {...any} args
   */
  #tell(what, ...args) {
    for (const handlers of [...this.#handlers]) {
      try {
        /** @type {((...args: any[]) => void) | undefined} */ (handlers[what])?.(...args);
      } catch (err) {
        reportError(err);
      }
    }
  }
}

/**
 * Opens a WebSocket; what it returns hangs up.
 * @param {string} url
 * @param {(message: any) => void} hear
 * @param {(code?: number) => void} lost
 */
function overWebSocket(url, hear, lost) {
  /** @type {WebSocket} */
  let socket;
  try {
    socket = new WebSocket(url.replace(/^http/, "ws"));
  } catch { // a policy of the page forbids it
    const none = setTimeout(lost);
    return () => clearTimeout(none);
  }
  let over = false;
  socket.onmessage = (message) => { if (!over) hear(JSON.parse(message.data)); };
  socket.onclose = (end) => { if (!over) lost(end.code); };
  return () => {
    over = true;
    socket.close();
  };
}

/**
 * Opens a stream of Server-Sent Events; what it returns hangs up.
 * @param {string} url
 * @param {(message: any) => void} hear
 * @param {(code?: number) => void} lost
 */
function overEvents(url, hear, lost) {
  const source = new EventSource(url, { withCredentials: true });
  for (const type of ["ready", "event", "progress", "resync"]) {
    source.addEventListener(type, (message) => hear(JSON.parse(message.data)));
  }
  source.addEventListener("closed", (message) => {
    source.close();
    lost(JSON.parse(message.data).code);
  });
  source.onerror = () => { // its own reconnecting knows neither jitter nor the other way
    source.close();
    lost();
  };
  return () => source.close();
}

/**
 * Connects; see the module.
 * @param {Options & Handlers} options
 */
export function connect(options) { return new Connection(options); }

/** A Problem is what the API says when it refuses (RFC 9457), or what a network that is down amounts to. */
export class Problem extends Error {
  /** @param {{type?: string, title?: string, status?: number, detail?: string, requestId?: string, [member: string]: any}} said */
  constructor(said, retryAfter = 0) {
    super(said.detail ?? said.title ?? "The request failed.");
    this.name = "Problem";
    /** Stable: "invalid", "conflict", "rate-limited", … or "unreachable". */
    this.code = (said.type ?? "").replace("urn:fdc:problem:", "");
    /** 0 when there was no answer. */
    this.status = said.status ?? 0;
    /** Seconds to wait, 0 when that isn't said. */
    this.retryAfter = retryAfter;
    /** All that was said. */
    this.said = said;
  }
}

/**
 * Sends the browser to Google and back to this page if that is what a problem asks for (reauthentication-required). The user then repeats
 * what was refused.
 * @param {unknown} problem
 * @returns {boolean} whether it does
 */
export function reauthenticate(problem) {
  if (!(problem instanceof Problem) || problem.code !== "reauthentication-required") return false;
  const to = new URL(problem.said.loginUrl, location.origin);
  to.searchParams.set("redirect", location.pathname + location.search + location.hash);
  location.assign(to);
  return true;
}

/**
 * Asks the API and gives the JSON of its answer, undefined when that has none. It throws a Problem.
 * @param {string} path
 * @param {{base?: string, method?: string, body?: any, headers?: Record<string, string>, signal?: AbortSignal}} [request]
 * @returns {Promise<any>}
 */
export async function api(path, { base = "", method = "GET", body, headers = {}, signal } = {}) {
  const merge = method === "PATCH" ? "application/merge-patch+json" : "application/json";
  /** @type {Response} */
  let answer;
  try {
    answer = await fetch(base + path, {
      method, signal, credentials: "include",
      headers: body === undefined ? headers : { "Content-Type": merge, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (err) {
    if (signal?.aborted) throw err;
    throw new Problem({ type: "unreachable", detail: "The server can't be reached." });
  }
  const json = /[/+]json/.test(answer.headers.get("Content-Type") ?? "");
  if (!answer.ok) {
    const said = json ? await answer.json().catch(() => ({})) : {};
    throw new Problem({ status: answer.status, title: answer.statusText, ...said }, Number(answer.headers.get("Retry-After") ?? 0));
  }
  return json ? answer.json() : undefined;
}
