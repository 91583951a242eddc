import { Problem, api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";

/**
 * The workspace's audit log, filtered, page by page, or all of it as a file.
 * @param {import("./app.js").Context} context
 */
export function audit({ root, session, workspace, signal, toast, attempt }) {
  if (workspace.role === "MEMBER") {
    root.replaceChildren(h("h1", null, t("audit")), h("p", { className: "notice" }, t("notAllowed")));
    return;
  }
  const path = `/api/workspaces/${workspace.id}/audit-logs`;
  const fields = {
    from: h("input", { type: "datetime-local" }), to: h("input", { type: "datetime-local" }),
    actor: h("input", { size: 12 }), action: h("input", { placeholder: "task.created", size: 14 }),
  };
  const rows = h("tbody");
  const more = h("button", { type: "button", hidden: true }, t("more"));

  function query() {
    const asked = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) {
      if (field.value) asked.set(name, field.type === "datetime-local" ? new Date(field.value).toISOString() : field.value.trim());
    }
    return asked;
  }

  /** @param {string} [cursor] */
  async function load(cursor) {
    const asked = query();
    if (cursor) asked.set("cursor", cursor);
    const page = await api(`${path}?${asked}`, { signal });
    if (!cursor) rows.replaceChildren();
    rows.append(...page.items.map(row));
    if (rows.children.length === 0) rows.append(h("tr", null, h("td", { colSpan: 5 }, t("noRows"))));
    more.hidden = !page.nextCursor;
    more.onclick = () => attempt(() => load(page.nextCursor));
  }

  /** @param {any} item */
  function row(item) {
    const who = item.actorId === session.user.id ? t("you") : item.actorId === "system" ? t("system") : item.actorId;
    return h("tr", null,
      h("td", null, h("time", { dateTime: item.occurredAt }, time(item.occurredAt, { dateStyle: "short", timeStyle: "medium" }))),
      h("td", null, h("code", null, item.action)), h("td", null, who),
      h("td", null, item.target?.type ? h("span", { title: item.target.id }, `${item.target.type} ${item.target.id.slice(-8)}`) : ""),
      h("td", { className: item.result }, item.result));
  }

  /** @param {string} media @param {string} name */
  async function download(media, name) {
    const answer = await fetch(`${path}?${query()}`, { headers: { Accept: media }, signal });
    if (!answer.ok) throw new Problem({ status: answer.status, ...await answer.json() });
    const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    toast(name);
  }

  const day = new Date().toISOString().slice(0, 10);
  root.replaceChildren(
    h("h1", null, t("audit")),
    h("form", { className: "row", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); attempt(() => load()); } },
      Object.entries(fields).map(([name, field]) => h("label", null, t(/** @type {any} */ (name)), field)),
      h("button", { className: "primary" }, t("apply")),
      h("button", { type: "button", onclick: () => attempt(() => download("text/csv", `audit-${day}.csv`)) }, t("exportCSV")),
      h("button", { type: "button", onclick: () => attempt(() => download("application/x-ndjson", `audit-${day}.ndjson`)) }, t("exportNDJSON"))),
    h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": t("audit") }, h("table", { id: "log" },
      h("thead", null, h("tr", null, ["when", "action", "actor", "target", "result"].map((name) => h("th", { scope: "col" }, t(/** @type {any} */ (name)))))), rows)),
    more);
  attempt(() => load());
}
