import { Problem, api } from "../client/fdc.js";
import { h } from "../console/dom.js";
import { quantile, rate, sum } from "./figures.js";

/**
 * The operators' page: it asks for /ops/status every other second and draws it. Rates are between the last two answers.
 */

const every = 2000;
const kept = 150; // points of the chart: five minutes

/** @type {import("./figures.js").Sample | undefined} */
let last;
/** @type {{p50: number, p95: number, p99: number}[]} */
const latencies = [];
const byID = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** @param {number} n */
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n > 0 ? Math.min(units.length - 1, Math.floor(Math.log2(n) / 10)) : 0;
  return number.format(n / 1024 ** power) + " " + units[power];
}

/** @param {number} seconds */
function duration(seconds) {
  if (Number.isNaN(seconds)) return "–";
  return seconds < 1 ? number.format(seconds * 1000) + " ms" : number.format(seconds) + " s";
}

/** @param {import("./figures.js").Sample} now */
function draw(now) {
  const { status, metrics } = now;
  const per = (/** @type {string} */ name, /** @type {Record<string, string>} */ labels = {}) => rate(last, now, name, labels);
  const said = (/** @type {number} */ n) => Number.isNaN(n) ? "–" : number.format(n) + " /s";
  const of = (/** @type {string} */ name) => status.streams.find((/** @type {any} */ s) => s.name === name) ?? { messages: 0, lastSeq: 0, bytes: 0 };
  const events = of("EVENTS"), dead = of("DEAD");
  const lag = status.consumers.reduce((/** @type {number} */ n, /** @type {any} */ c) => n + c.pending, 0);
  /** @type {[name: string, figure: string, about: string, warn: boolean][]} */
  const stages = [
    ["API", said(per("http_request_seconds")), `answers · memory ${bytes(sum(metrics, "process_resident_memory_bytes"))}`, false],
    ["Outbox", number.format(status.outbox.pending), `waiting, the oldest for ${duration(status.outbox.oldestAgeSeconds)}`, status.outbox.oldestAgeSeconds > 10],
    ["EVENTS", said(last ? (events.lastSeq - eventsOf(last)) / ((now.at - last.at) / 1000) : NaN), `${compact.format(events.messages)} kept, ${bytes(events.bytes)}`, false],
    ["Consumers", compact.format(lag), `events behind · ${number.format(dead.messages)} dead letters`, dead.messages > 0 || lag > 10_000],
    ["Sockets", number.format(sum(metrics, "push_sockets")), `open · ${said(per("push_delivered_total"))} sent`, false],
  ];
  byID("flow").replaceChildren(...stages.map(([name, figure, about, warn]) =>
    h("div", { className: warn ? "stage warn" : "stage" }, h("span", null, name), h("strong", null, figure), h("small", null, about))));

  if (last) {
    latencies.push({ p50: quantile(last, now, .5), p95: quantile(last, now, .95), p99: quantile(last, now, .99) });
    if (latencies.length > kept) latencies.shift();
  }
  byID("latency").replaceChildren(chart());
  byID("caches").replaceChildren(...["sessions", "workspace_data"].map((cache) => {
    const layers = ["near", "kv", "db", "bypass"].map((layer) => sum(metrics, "cache_requests_total", { cache, layer }));
    const all = layers.reduce((a, b) => a + b, 0);
    const share = (/** @type {number} */ n) => all > 0 ? n / all * 100 : 0;
    const hits = share(layers[0] + layers[1]);
    const track = h("div", { className: "track", role: "img", "aria-label": `${number.format(hits)} % hits` },
      ["near", "kv", "db"].map((layer, i) => {
        const part = h("div", { className: layer });
        part.style.width = share(i === 2 ? layers[2] + layers[3] : layers[i]) + "%";
        return part;
      }));
    return h("div", { className: "meter" }, h("span", null, cache), track, h("b", null, all > 0 ? number.format(hits) + " %" : "–"));
  }), h("p", { className: "legend" }, "hits since the start: near layer, then bucket; the rest went to the database"));

  table("consumers", ["consumer", "behind", "unacknowledged", "redelivered"],
    status.consumers.map((/** @type {any} */ c) => [c.name, c.pending, c.ackPending, c.redelivered]));
  table("streams", ["stream", "messages", "size", "first", "last"],
    status.streams.map((/** @type {any} */ s) => [s.name, s.messages, bytes(s.bytes), s.firstSeq, s.lastSeq]));
  table("buckets", ["bucket", "keys", "size"], status.buckets.map((/** @type {any} */ b) => [b.name, b.keys, bytes(b.bytes)]));
  const jobs = status.syncJobs;
  byID("jobs").replaceChildren(h("p", null, `${jobs.pending} waiting, ${jobs.processing} under way.`),
    h("p", { className: "legend" }, `In the last 24 hours ${jobs.completed} completed, ${jobs.failed} failed, ${jobs.cancelled} cancelled.`));
  byID("partitions").replaceChildren(bars(status.partitions));
}

/** @param {import("./figures.js").Sample} sample */
const eventsOf = (sample) => sample.status.streams.find((/** @type {any} */ s) => s.name === "EVENTS")?.lastSeq ?? 0;

/** @param {string} id @param {string[]} heads @param {(string | number)[][]} rows */
function table(id, heads, rows) {
  byID(id).replaceChildren(h("table", null,
    h("thead", null, h("tr", null, heads.map((head, i) => h("th", { scope: "col", className: i ? "number" : "" }, head)))),
    h("tbody", null, rows.map((row) => h("tr", null, row.map((cell, i) =>
      h("td", { className: i ? "number" : "" }, typeof cell === "number" ? number.format(cell) : cell)))))));
}

/** @param {string} name @param {Record<string, string | number>} attributes @param {...(Node | string)} children */
function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/** The quantiles over the last five minutes, on a logarithmic scale from 0.1 ms to 10 s. */
function chart() {
  const width = 480, height = 150, left = 46;
  const y = (/** @type {number} */ seconds) => height - 12 - (Math.log10(Math.min(10, Math.max(1e-4, seconds))) + 4) / 5 * (height - 24);
  const x = (/** @type {number} */ i) => left + (width - left) * i / (kept - 1);
  const now = latencies.at(-1);
  const about = now ? `p50 ${duration(now.p50)}, p95 ${duration(now.p95)}, p99 ${duration(now.p99)}` : "no answers yet";
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about });
  for (const [seconds, label] of /** @type {[number, string][]} */ ([[.001, "1 ms"], [.01, "10 ms"], [.1, "100 ms"], [1, "1 s"]])) {
    picture.append(svg("line", { class: "axis", x1: left, x2: width, y1: y(seconds), y2: y(seconds) }), svg("text", { x: 0, y: y(seconds) + 4 }, label));
  }
  for (const name of /** @type {const} */ (["p50", "p95", "p99"])) {
    const points = latencies.map((at, i) => Number.isNaN(at[name]) ? "" : `${x(i).toFixed(1)},${y(at[name]).toFixed(1)}`).filter(Boolean);
    picture.append(svg("polyline", { class: name, points: points.join(" ") }));
  }
  return h("div", null, picture, h("p", { className: "legend" }, about));
}

/** @param {{month: string, state: string, rows: number, bytes: number}[]} partitions */
function bars(partitions) {
  const most = Math.max(1, ...partitions.map((p) => p.rows));
  const step = 64, height = 130;
  const picture = svg("svg", {
    viewBox: `0 0 ${Math.max(1, partitions.length) * step} ${height + 34}`, role: "img",
    "aria-label": partitions.map((p) => `${p.month}: ${p.rows} rows, ${p.state}`).join("; "),
  });
  picture.style.maxHeight = "14rem";
  partitions.forEach((p, i) => {
    const tall = Math.max(2, p.rows / most * (height - 18));
    picture.append(
      svg("rect", { class: "bar " + (p.rows === 0 ? "premade" : p.state), x: i * step + 10, y: height - tall, width: step - 20, height: tall, rx: 4 },
        svg("title", {}, `${p.month}: ${number.format(p.rows)} rows, ${bytes(p.bytes)}, ${p.state}`)),
      svg("text", { x: i * step + step / 2, y: height - tall - 5, "text-anchor": "middle" }, compact.format(p.rows)),
      svg("text", { x: i * step + step / 2, y: height + 14, "text-anchor": "middle" }, p.month),
      svg("text", { x: i * step + step / 2, y: height + 28, "text-anchor": "middle" }, p.state));
  });
  return picture;
}

async function tick() {
  const state = byID("state");
  try {
    const now = { at: performance.now(), ...await api("/ops/status") };
    draw(now);
    last = now;
    state.className = "status live";
    state.textContent = "Live";
  } catch (err) {
    state.className = "status connecting";
    state.textContent = err instanceof Problem && err.status === 404 ? "Sign in as an operator" : err instanceof Error ? err.message : String(err);
    if (!(err instanceof Problem)) reportError(err);
  }
  setTimeout(tick, every);
}

tick();
