import { api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";

const suits = /** @type {const} */ (["spade", "heart", "diamond", "club", "joker", "unclassified"]);
const signs = { spade: "♠", heart: "♥", diamond: "♦", club: "♣", joker: "★", unclassified: "•" };

/**
 * All tasks of a workspace.
 * @param {string} workspaceID
 * @param {AbortSignal} signal
 * @returns {Promise<any[]>}
 */
export async function allTasks(workspaceID, signal) {
  const items = [];
  for (let cursor = ""; ;) {
    const page = await api(`/api/workspaces/${workspaceID}/tasks?limit=200${cursor}`, { signal });
    items.push(...page.items);
    if (!page.nextCursor) return items;
    cursor = "&cursor=" + encodeURIComponent(page.nextCursor);
  }
}

/**
 * The tasks as cards, in a column for each suit, between which they can be dragged, or moved from the keyboard.
 * @param {import("./app.js").Context} context
 */
export function tasks({ root, workspace, signal, follow, toast, attempt }) {
  const path = `/api/workspaces/${workspace.id}/tasks`;
  /** @type {any[]} */
  let list = [];
  const board = h("div", { className: "board", id: "board" }, h("p", null, t("loading")));
  const load = () => attempt(async () => {
    list = await allTasks(workspace.id, signal);
    draw();
  });

  const title = h("input", { name: "title", required: true, maxLength: 1024, placeholder: t("title"), "aria-label": t("title") });
  const suit = suitChoice("unclassified");
  const due = h("input", { type: "date", name: "due", "aria-label": t("due") });
  root.replaceChildren(
    h("h1", null, t("tasks")),
    h("form", {
      className: "row", id: "add",
      onsubmit: (/** @type {Event} */ e) => {
        e.preventDefault();
        const draft = { title: title.value, suit: suit.value, dueDate: due.value || null };
        title.value = due.value = ""; // at once: the next title may be typed meanwhile
        attempt(async () => {
          try {
            list.push(await api(path, { method: "POST", body: draft }));
          } catch (error) {
            if (!title.value) [title.value, due.value] = [draft.title, draft.dueDate ?? ""];
            throw error;
          }
          draw();
        });
      },
    }, title, suit, due, h("button", { className: "primary" }, t("addTask"))),
    board,
  );
  follow(load, (event) => event.workspaceid === workspace.id && event.type.startsWith("fdc.task."), 4000);

  /** @param {string} id @param {any} change */
  async function patch(id, change) {
    const changed = await api(`${path}/${id}`, { method: "PATCH", body: change });
    list = list.map((task) => task.id === id ? changed : task);
    draw();
  }

  function draw() {
    const focused = document.activeElement?.id;
    board.replaceChildren(...suits.map((name) => {
      const inside = list.filter((task) => task.suit === name)
        .sort((a, b) => Number(a.status === "done") - Number(b.status === "done") || (a.dueDate ?? "9") .localeCompare(b.dueDate ?? "9") || a.title.localeCompare(b.title));
      const column = h("section", { className: "column " + name, "data-suit": name, "aria-labelledby": "suit-" + name },
        h("h2", { id: "suit-" + name }, h("span", { "aria-hidden": "true" }, signs[name] + " "), t(name), h("span", { className: "count" }, String(inside.length))),
        h("ul", null, inside.map(card), inside.length === 0 && h("li", { className: "empty" }, t("noTasks"))));
      column.addEventListener("dragover", (/** @type {DragEvent} */ e) => {
        e.preventDefault();
        column.classList.add("over");
      });
      column.addEventListener("dragleave", () => column.classList.remove("over"));
      column.addEventListener("drop", (/** @type {DragEvent} */ e) => {
        e.preventDefault();
        move(e.dataTransfer?.getData("text/plain") ?? "", name);
      });
      return column;
    }));
    if (focused) document.getElementById(focused)?.focus();
  }

  /** @param {string} id @param {typeof suits[number]} to */
  function move(id, to) {
    const task = list.find((one) => one.id === id);
    if (!task || task.suit === to) return;
    task.suit = to; // at once; what the server says comes after
    draw();
    attempt(async () => {
      try {
        await patch(id, { suit: to });
        toast(t("moved", { suit: t(to) }));
      } catch (err) {
        load();
        throw err;
      }
    });
  }

  /** @param {any} task */
  function card(task) {
    const item = h("li", { className: "card " + task.status, draggable: true, "data-id": task.id },
      h("input", {
        type: "checkbox", checked: task.status === "done", id: "done-" + task.id, "aria-label": t("markDone", { title: task.title }),
        onchange: (/** @type {any} */ e) => attempt(() => patch(task.id, { status: e.target.checked ? "done" : "todo" })),
      }),
      h("button", { type: "button", className: "title", id: "edit-" + task.id, onclick: () => edit(task) }, task.title),
      task.dueDate && h("span", { className: "due" }, time(task.dueDate + "T00:00", { month: "short", day: "numeric" })),
      task.google?.error && h("span", { className: "problem", title: task.google.error }, "⚠"),
      suitChoice(task.suit, {
        "aria-label": `${t("moveTo")}: ${task.title}`, id: "move-" + task.id, className: "move",
        onchange: (/** @type {any} */ e) => move(task.id, e.target.value),
      }));
    item.addEventListener("dragstart", (/** @type {DragEvent} */ e) => e.dataTransfer?.setData("text/plain", task.id));
    return item;
  }

  /** @param {any} task */
  function edit(task) {
    const local = (/** @type {string|null} */ at) => {
      if (!at) return "";
      const moment = new Date(at);
      return new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
    };
    /** @type {Record<string, any>} */
    const fields = {
      title: h("input", { value: task.title, required: true, maxLength: 1024 }),
      notes: h("textarea", { value: task.notes ?? "", rows: 4, maxLength: 8192 }),
      dueDate: h("input", { type: "date", value: task.dueDate ?? "" }),
      startAt: h("input", { type: "datetime-local", value: local(task.startAt) }),
      endAt: h("input", { type: "datetime-local", value: local(task.endAt) }),
      suit: suitChoice(task.suit, { "aria-label": null }),
    };
    const initial = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
    /** @type {Record<string, any>} */
    const labels = { title: "title", notes: "notes", dueDate: "due", startAt: "startAt", endAt: "endAt", suit: "suit" };
    const dialog = h("dialog", { "aria-labelledby": "edit-title", onclose: () => dialog.remove() },
      h("form", {
        method: "dialog",
        onsubmit: (/** @type {SubmitEvent} */ e) => {
          e.preventDefault();
          /** @type {Record<string, any>} */
          const change = {};
          for (const [name, field] of Object.entries(fields)) {
            if (field.value === initial[name]) continue;
            change[name] = name.endsWith("At") && field.value ? new Date(field.value).toISOString() : field.value || (name === "notes" ? "" : null);
          }
          if (change.startAt && !task.timeZone) change.timeZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
          attempt(async () => {
            if (Object.keys(change).length > 0) await patch(task.id, change);
            dialog.close();
          });
        },
      },
      h("h2", { id: "edit-title" }, t("editTask")),
      Object.entries(fields).map(([name, field]) => h("label", null, t(labels[name]), field)),
      h("div", { className: "row end" },
        h("button", {
          type: "button", className: "danger", onclick: () => attempt(async () => {
            await api(`${path}/${task.id}`, { method: "DELETE" });
            list = list.filter((one) => one.id !== task.id);
            dialog.close();
            draw();
            toast(t("deleted"));
          }),
        }, t("delete")),
        h("button", { type: "button", onclick: () => dialog.close() }, t("cancel")),
        h("button", { className: "primary" }, t("save")))));
    root.append(dialog);
    dialog.showModal();
  }
}

/** @param {string} chosen @param {Record<string, any>} [more] */
function suitChoice(chosen, more) {
  return h("select", { "aria-label": t("suit"), ...more },
    suits.map((name) => h("option", { value: name, selected: name === chosen }, `${signs[name]} ${t(name)}`)));
}
