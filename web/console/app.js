import { Problem, api, connect, reauthenticate } from "../client/fdc.js";
import { audit } from "./audit.js";
import { calendar } from "./calendar.js";
import { devices } from "./devices.js";
import { documentView } from "./document.js";
import { h, paced } from "./dom.js";
import { language, setLanguage, t, texts } from "./i18n.js";
import { invitations, members } from "./members.js";
import { syncView } from "./syncview.js";
import { tasks } from "./tasks.js";

/**
 * What a view gets. It draws into root until its signal is aborted.
 * @typedef {object} Context
 * @property {HTMLElement} root
 * @property {any} session as GET /api/auth/session gives it
 * @property {{id: string, name: string, role: string}} workspace
 * @property {import("../client/fdc.js").Connection} live
 * @property {AbortSignal} signal
 * @property {(load: () => unknown, concerns: (event: import("../client/fdc.js").FdcEvent) => boolean, pace: number) => void} follow
 *   calls load now, after events that concern it, no sooner than pace milliseconds after the last time, and whenever events were missed
 * @property {(text: string, bad?: boolean) => void} toast
 * @property {(work: () => Promise<unknown>) => Promise<void>} attempt says what goes wrong
 */

/** @type {Record<"tasks"|"calendar"|"document"|"sync"|"members"|"audit"|"devices", (context: Context) => void>} */
const views = { tasks, calendar, document: documentView, sync: syncView, members, audit, devices };
const names = /** @type {(keyof typeof views)[]} */ (Object.keys(views));

const patience = 300; // milliseconds for a page to become live before it shows anything

const app = /** @type {HTMLElement} */ (document.getElementById("app"));
/** @type {any} */
let session;
/** @type {import("../client/fdc.js").Connection | undefined} */
let live;
let workspaceID = localStorage.getItem("workspace") ?? "";
let view = new AbortController();
const received = invitations(attempt, async (joined) => {
  workspaceID = joined;
  localStorage.setItem("workspace", workspaceID);
  await refresh();
});

/** @param {string} text */
function toast(text, bad = false) {
  const note = h("p", { className: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts")?.append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 3000);
}

/** @param {() => Promise<unknown>} work */
async function attempt(work) {
  try {
    await work();
  } catch (err) {
    if (err instanceof DOMException && err.name === "AbortError") return;
    if (err instanceof Problem && err.status === 401) {
      forget();
      return signedOut(t("ended"));
    }
    if (reauthenticate(err)) return;
    const more = err instanceof Problem && err.retryAfter > 0 ? " " + t("retryIn", { seconds: err.retryAfter }) : "";
    toast((err instanceof Error ? err.message : String(err)) + more, true);
    if (!(err instanceof Problem)) throw err;
  }
}

/** Deletes what the console has stored about its user. The language stays: it is nobody's secret, and the page goes on in it. */
function forget() {
  localStorage.clear();
  sessionStorage.clear();
  setLanguage(language);
}

/** @param {string} [why] */
function signedOut(why) {
  view.abort();
  live?.close();
  live = undefined;
  app.replaceChildren(h("main", { className: "welcome" },
    h("h1", null, "FDC"), h("p", null, t("tagline")), why && h("p", { className: "notice", role: "alert" }, why),
    h("a", { className: "button primary", href: "/api/auth/login?connect=true&redirect=/" + encodeURIComponent(location.hash) }, t("signIn")),
    languages(() => signedOut(why)),
  ));
}

/** @param {() => void} changed */
function languages(changed) {
  const choose = h("select", { "aria-label": t("language"), onchange: () => { setLanguage(choose.value); changed(); } },
    Object.keys(texts).map((code) => h("option", { value: code, selected: code === language }, { en: "English", ja: "日本語" }[code])));
  return choose;
}

const current = () => names.find((name) => location.hash === "#" + name) ?? "tasks";
const workspace = () => session.workspaces.find((/** @type {any} */ w) => w.id === workspaceID) ?? session.workspaces[0];

async function refresh() {
  const before = workspace();
  session = await api("/api/auth/session");
  draw(before?.id !== workspace()?.id || before?.role !== workspace()?.role);
}

/** Draws the frame, and the view anew unless that can stay. */
function draw(again = true) {
  document.documentElement.lang = language;
  const space = workspace();
  const status = h("span", { className: "status " + live?.status, id: "live" }, t(statusText()));
  const choose = h("select", {
    "aria-label": t("workspace"), id: "workspace",
    onchange: () => {
      if (choose.value === "new") return attempt(create);
      workspaceID = choose.value;
      localStorage.setItem("workspace", workspaceID);
      draw();
    },
  }, session.workspaces.map((/** @type {any} */ w) => h("option", { value: w.id, selected: w.id === space?.id }, w.name)),
  h("option", { value: "new" }, t("newWorkspace")));
  const content = again ? h("main", { id: "content", tabIndex: -1 }) : document.getElementById("content");
  app.replaceChildren(
    h("a", { className: "skip", href: "#content", onclick: (/** @type {Event} */ e) => { e.preventDefault(); content.focus(); } }, t("skip")),
    h("header", null,
      h("strong", { className: "brand" }, "FDC"), choose, status, h("span", { className: "space" }),
      h("span", { className: "who", title: session.user.email }, session.user.name || session.user.email),
      session.user.systemRole === "SA" && h("a", { href: "/ops" }, t("operators")),
      languages(() => { received.load(); draw(); }),
      h("button", { type: "button", onclick: () => attempt(signOut) }, t("signOut"))),
    h("nav", { "aria-label": t("views") }, names.map((name) =>
      h("a", { href: "#" + name, "aria-current": name === current() ? "page" : null }, t(name)))),
    received.element, content,
  );
  document.title = `${t(current())} – FDC`;
  if (!again) return;
  view.abort();
  view = new AbortController();
  const { signal } = view;
  if (!space || !live) return;
  const connection = live;
  views[current()]({
    root: content, session, workspace: space, live: connection, signal, toast, attempt,
    follow: (load, concerns, pace) => {
      const soon = paced(load, pace);
      // A page that is just opening will be live in a moment: what is fetched then has no gap to what is heard after it.
      const first = setTimeout(soon, connection.status === "live" ? 0 : patience);
      signal.addEventListener("abort", () => clearTimeout(first));
      signal.addEventListener("abort", connection.listen({
        onEvent: (event) => { if (concerns(event)) soon(); },
        onResync: () => {
          clearTimeout(first);
          soon();
        },
      }));
    },
  });
}

function statusText() {
  const status = live?.status ?? "closed";
  return status === "ended" ? "closed" : status;
}

async function create() {
  const name = prompt(t("workspaceName"));
  if (name?.trim()) {
    workspaceID = (await api("/api/workspaces", { method: "POST", body: { name } })).id;
    localStorage.setItem("workspace", workspaceID);
  }
  session = await api("/api/auth/session");
  draw();
}

async function signOut() {
  await api("/api/auth/logout", { method: "POST" });
  forget();
  signedOut();
}

// What changes where the user is, or who they are.
const mine = ["workspace.created", "workspace.member_added", "workspace.member_removed", "workspace.member_role_changed", "workspace.renamed", "user.role_changed",
  "google.connected", "google.disconnected", "google.reauth_required"].map((type) => `fdc.${type}.v1`);

/** Says what went wrong on the way to Google and back: ?problem=CODE. */
function explainProblem() {
  const here = new URL(location.href);
  const code = here.searchParams.get("problem");
  if (!code) return;
  here.searchParams.delete("problem");
  history.replaceState(null, "", here);
  const known = /** @type {Record<string, import("./i18n.js").Key>} */ ({
    "reauthentication-another-account": "reauthAnotherAccount", "reauthentication-cancelled": "reauthCancelled",
  });
  toast(t(known[code] ?? "signInProblem"), true);
}

async function start() {
  explainProblem();
  try {
    session = await api("/api/auth/session");
  } catch (err) {
    if (err instanceof Problem && err.status === 401) return signedOut();
    app.replaceChildren(h("main", { className: "welcome" }, h("p", { role: "alert" }, String(err)),
      h("button", { type: "button", onclick: () => location.reload() }, "↻")));
    return;
  }
  live = connect({
    onEvent: (event) => {
      if (mine.includes(event.type) && (event.userid === session.user.id || event.data.userId === session.user.id)) attempt(refresh);
      if (event.type.startsWith("fdc.invitation.") && event.userid === session.user.id) received.load();
    },
    onResync: () => received.load(),
    onStatus: (status) => {
      if (status === "ended") {
        forget();
        return signedOut(t("ended"));
      }
      const shown = document.getElementById("live");
      if (!shown || status === "closed") return;
      shown.className = "status " + status;
      shown.textContent = t(statusText());
    },
  });
  addEventListener("hashchange", () => { if (session && live) draw(); });
  draw();
}

start();
