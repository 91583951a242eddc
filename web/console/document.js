import { Problem, api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";
import { decide, merge, same } from "./merge.js";

/**
 * The workspace's document as text. It is saved on the condition that nobody else has saved since; when somebody has, both are
 * merged, and what both have changed is put to the user.
 * @param {import("./app.js").Context} context
 */
export function documentView({ root, workspace, signal, follow, toast, attempt }) {
  const path = `/api/workspaces/${workspace.id}/data`;
  let base = { data: {}, version: 0 }; // what the text began with
  const text = h("textarea", { id: "document", spellcheck: false, rows: 24, "aria-describedby": "document-of", "aria-label": t("document") });
  const about = h("p", { id: "document-of" }, t("loading"));
  const notice = h("p", { className: "notice", id: "document-notice", hidden: true });
  const merging = h("section", { id: "merge" });
  const pretty = (/** @type {any} */ value) => JSON.stringify(value, null, 2);
  const dirty = () => text.value !== pretty(base.data);

  /** @param {any} read */
  function show(read) {
    base = { data: read.data, version: read.version };
    text.value = pretty(base.data);
    about.textContent = t("documentOf", { version: base.version });
    notice.hidden = true;
    merging.replaceChildren();
  }

  const load = () => attempt(async () => {
    const read = await api(path, { signal });
    if (read.version < base.version) return;
    if (!dirty() || base.version === 0) show(read);
    else if (read.version > base.version) {
      notice.textContent = t("changedBySomeone", { version: read.version });
      notice.hidden = false;
    }
  });

  /** @returns {any} what the text holds; undefined after having said what is wrong with it */
  function parsed() {
    try {
      const value = JSON.parse(text.value);
      if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
      toast(t("notObject"), true);
    } catch (err) {
      toast(t("notJSON", { error: String(err) }), true);
    }
    return undefined;
  }

  /** @param {any} data @param {number} on the version that it was made from */
  async function save(data, on) {
    const sent = text.value;
    try {
      const saved = await api(path, { method: "PUT", body: { data }, headers: { "If-Match": `"${on}"` } });
      const typed = text.value;
      show({ data, version: saved.version });
      if (typed !== sent) text.value = typed; // while the answer was under way
      toast(t("saved"));
    } catch (err) {
      if (!(err instanceof Problem) || err.status !== 412) throw err;
      reconcile(data, await api(path, { signal }));
    }
  }

  /** @param {any} mine @param {any} theirs as GET gives it */
  function reconcile(mine, theirs) {
    const found = merge(base.data, mine, theirs.data);
    base = { data: theirs.data, version: theirs.version };
    about.textContent = t("documentOf", { version: base.version });
    notice.hidden = true;
    let merged = found.merged;
    text.value = pretty(merged);
    if (found.conflicts.length === 0) {
      toast(t("merged", { version: base.version }));
      if (same(merged, base.data)) return show(theirs);
      return save(merged, base.version);
    }
    const heading = h("h2", { tabIndex: -1 }, t("mergeTitle", { version: base.version }));
    merging.replaceChildren(heading, h("p", null, t("mergeHelp")),
      ...found.conflicts.map(({ path: where, mine: ours, theirs: others }, i) => h("fieldset", null,
        h("legend", null, "/" + where.join("/")),
        [{ name: t("mine"), value: ours, chosen: false }, { name: t("theirs"), value: others, chosen: true }].map(({ name, value, chosen }) => h("label", { className: "choice" },
          h("input", {
            type: "radio", name: "conflict-" + i, checked: chosen, onchange: () => {
              merged = decide(merged, where, value);
              text.value = pretty(merged);
            },
          }), name, h("pre", null, value === undefined ? t("absent") : pretty(value)))))),
      h("button", { type: "button", className: "primary", onclick: () => attempt(() => save(parsed() ?? merged, base.version)) }, t("keepMerged")));
    heading.focus();
  }

  root.replaceChildren(
    h("h1", null, t("document")), about, notice, merging, text,
    h("div", { className: "row" },
      h("button", {
        type: "button", className: "primary", id: "save", onclick: () => attempt(async () => {
          const data = parsed();
          if (data !== undefined) await save(data, base.version);
        }),
      }, t("save")),
      h("button", { type: "button", onclick: () => { const data = parsed(); if (data !== undefined) text.value = pretty(data); } }, t("format")),
      h("button", { type: "button", onclick: () => attempt(async () => show(await api(path, { signal }))) }, t("discard"))),
  );
  follow(load, (event) => event.type === "fdc.workspace.data_updated.v1" && event.workspaceid === workspace.id && event.data.version > base.version, 1000);
}
