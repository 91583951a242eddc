import { api } from "../client/fdc.js";
import { GoogleSync } from "../client/sync.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";

const remembered = 20;

/**
 * Starting a sync with Google and watching it, and the ends of those that this browser has seen.
 * @param {import("./app.js").Context} context
 */
export function syncView({ root, session, live, signal, follow, attempt }) {
  const shelf = "syncs-" + session.user.id;
  /** @type {any[]} */
  let history = JSON.parse(localStorage.getItem(shelf) ?? "[]");
  const sync = new GoogleSync({ live });
  const google = h("p", { id: "google" }, t("loading"));
  const state = h("p", { id: "job", "aria-live": "polite" });
  const bar = h("progress", { id: "progress", max: 1, "aria-label": t("sync"), hidden: true });
  const stop = h("button", { type: "button", hidden: true, onclick: () => attempt(sync.cancel) }, t("cancel"));
  const rows = h("tbody");
  const type = h("select", { "aria-label": t("what") },
    ["full", "tasks", "calendar"].map((name) => h("option", { value: name }, t(/** @type {any} */ (name)))));
  const anew = h("input", { type: "checkbox", id: "anew" });

  const load = () => attempt(async () => {
    const now = await api("/api/google/sync", { signal });
    const wants = now.state === "disconnected" ? t("connectGoogle") : now.state === "reauth_required" ? t("reconnectGoogle") : "";
    google.replaceChildren(
      t("googleState", { state: t(/** @type {any} */ ("state_" + now.state)) }), " · ",
      t("lastSynced", { time: now.lastSyncedAt ? time(now.lastSyncedAt) : t("never") }), " ",
      wants && h("a", { className: "button", href: "/api/google/connect?redirect=/" + encodeURIComponent("#sync") }, wants));
  });

  /** @param {string} jobId */
  async function note(jobId) {
    if (history.some((job) => job.jobId === jobId)) return;
    const job = await api("/api/google/sync?jobId=" + jobId, { signal });
    history = [job, ...history].slice(0, remembered);
    localStorage.setItem(shelf, JSON.stringify(history));
    drawHistory();
  }

  signal.addEventListener("abort", live.listen({
    onEvent: (event) => { if (/^fdc\.sync\.(completed|failed|cancelled)\./.test(event.type)) attempt(() => note(event.data.jobId)); },
  }));

  function draw() {
    const { status, progress, error } = sync.snapshot();
    const busy = ["starting", "pending", "processing"].includes(status);
    const share = progress && progress.total > 0 ? ` ${progress.done} / ${progress.total}` : progress && progress.done > 0 ? ` ${progress.done}` : "";
    state.textContent = (progress ? t(/** @type {any} */ ("phase_" + progress.phase)) + share : t(/** @type {any} */ ("job_" + status)))
      + (error ? " " + error.message : "");
    state.classList.toggle("bad", Boolean(error));
    bar.hidden = !busy;
    if (progress && progress.total > 0) bar.value = progress.done / progress.total;
    else bar.removeAttribute("value");
    stop.hidden = !["pending", "processing"].includes(status);
  }

  function drawHistory() {
    rows.replaceChildren(...history.map((job) => h("tr", null,
      h("td", null, time(job.completedAt ?? job.createdAt)),
      h("td", null, t(/** @type {any} */ (job.type))),
      h("td", { className: job.status }, t(/** @type {any} */ ("job_" + job.status)), job.error ? ": " + job.error.message : ""),
      h("td", null, counts(job.result)))));
  }

  root.replaceChildren(
    h("h1", null, t("sync")), google,
    h("form", {
      className: "row", id: "sync", onsubmit: (/** @type {Event} */ e) => {
        e.preventDefault();
        sync.start({ type: type.value, mode: anew.checked ? "resync" : "incremental" });
      },
    }, type, h("label", { className: "inline" }, anew, t("fullRead")), h("button", { className: "primary" }, t("syncNow")), stop),
    state, bar,
    h("h2", null, t("history")),
    h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": t("history") }, h("table", { id: "history" },
      h("thead", null, h("tr", null, ["when", "what", "outcome", "counts"].map((name) => h("th", { scope: "col" }, t(/** @type {any} */ (name)))))), rows)),
  );
  signal.addEventListener("abort", sync.watch(draw));
  draw();
  drawHistory();
  follow(load, (event) => /^fdc\.(sync|google)\./.test(event.type), 3000);
}

/** @param {any} result of a job */
function counts(result) {
  const sum = (/** @type {string} */ name) => (result?.tasks?.[name] ?? 0) + (result?.calendar?.[name] ?? 0);
  const said = [["created", "created"], ["updated", "updated"], ["deleted", "removed"], ["pushed", "pushed"], ["conflicts", "conflicts"], ["failed", "failed"]]
    .filter(([name]) => sum(name) > 0).map(([name, key]) => `${sum(name)} ${t(/** @type {any} */ (key))}`);
  return said.length > 0 ? said.join(", ") : t("nothing");
}
