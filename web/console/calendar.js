import { api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";
import { allTasks } from "./tasks.js";

/** @typedef {{title: string, from: Date, to: Date, allDay: boolean, kind: "google"|"task", link?: string}} Entry */

/**
 * A week of the user's events from Google and of the workspace's tasks that have a time, in the browser's time zone.
 * @param {import("./app.js").Context} context
 */
export function calendar({ root, workspace, signal, follow, attempt }) {
  let monday = startOfWeek(new Date());
  /** @type {Entry[]} */
  let entries = [];
  const heading = h("h1", { "aria-live": "polite" });
  const grid = h("div", { className: "week", id: "week", tabIndex: 0, role: "region", "aria-label": t("calendar") });
  const end = () => addDays(monday, 7);

  const load = () => attempt(async () => {
    const from = monday;
    const query = `from=${encodeURIComponent(from.toISOString())}&to=${encodeURIComponent(end().toISOString())}`;
    const [events, tasks] = await Promise.all([
      api("/api/calendar/events?limit=200&" + query, { signal }), allTasks(workspace.id, signal),
    ]);
    if (from !== monday) return;
    entries = [
      ...events.items.map((/** @type {any} */ e) => ({
        title: e.title, allDay: e.allDay, kind: "google", link: e.htmlLink,
        from: new Date(e.allDay ? e.start + "T00:00" : e.start), to: new Date(e.allDay ? e.end + "T00:00" : e.end),
      })),
      ...tasks.filter((task) => task.startAt).map((task) => ({
        title: task.title, allDay: false, kind: "task",
        from: new Date(task.startAt), to: new Date(task.endAt ?? Date.parse(task.startAt) + 1_800_000),
      })),
    ];
    draw();
  });
  /** @param {number} days 0 for this week */
  function go(days) {
    monday = days ? addDays(monday, days) : startOfWeek(new Date());
    entries = [];
    draw();
    load();
  }

  function draw() {
    heading.textContent = t("week", { date: time(monday, { dateStyle: "long" }) });
    const none = !entries.some((e) => e.to > monday && e.from < end());
    grid.replaceChildren(...Array.from({ length: 7 }, (_, i) => {
      const from = addDays(monday, i), to = addDays(monday, i + 1);
      const inside = entries.filter((e) => e.from < to && (e.to > from || e.from >= from)).sort((a, b) => a.from.getTime() - b.from.getTime());
      const isToday = from.toDateString() === new Date().toDateString();
      return h("section", { className: isToday ? "day today" : "day", "aria-label": time(from, { dateStyle: "full" }) },
        h("h2", null, time(from, { weekday: "short", day: "numeric" })),
        h("ul", { className: "allday" }, inside.filter((e) => e.allDay).map((e) => entry(e))),
        h("ul", { className: "hours" }, lanes(inside.filter((e) => !e.allDay), from, to)));
    }), ...(none ? [h("p", { className: "empty" }, t("noEvents"))] : []));
  }

  root.replaceChildren(heading,
    h("div", { className: "row" },
      h("button", { type: "button", onclick: () => go(-7), "aria-label": t("previous") }, "←"),
      h("button", { type: "button", onclick: () => go(0) }, t("today")),
      h("button", { type: "button", onclick: () => go(7), "aria-label": t("next") }, "→")),
    grid);
  draw();
  follow(load, (event) => event.type.startsWith("fdc.task.") && event.workspaceid === workspace.id || event.type === "fdc.sync.completed.v1", 6000);
}

/** @param {Entry} e @param {Record<string, string>} [style] */
function entry(e, style = {}) {
  const when = e.allDay ? t("allDay") : `${time(e.from, { timeStyle: "short" })}–${time(e.to, { timeStyle: "short" })}`;
  const what = e.kind === "google" ? t("fromGoogle") : t("task");
  const item = h("li", { className: "entry " + e.kind, title: `${e.title}\n${when}, ${what}` },
    h("span", { className: "at" }, when), " ",
    e.link?.startsWith("https://") ? h("a", { href: e.link, rel: "noreferrer", target: "_blank" }, e.title) : h("span", null, e.title));
  Object.assign(item.style, style);
  return item;
}

/**
 * Puts entries that overlap beside each other: each gets the first lane that is free when it begins.
 * @param {Entry[]} entries sorted @param {Date} from @param {Date} to
 */
function lanes(entries, from, to) {
  /** @type {{entry: Entry, lane: number, group: {lanes: number}}[]} */
  const placed = [];
  /** @type {number[]} */
  let free = [];
  let group = { lanes: 1 };
  for (const one of entries) {
    const begins = one.from.getTime();
    if (free.every((until) => until <= begins)) {
      free = [];
      group = { lanes: 1 };
    }
    let lane = free.findIndex((until) => until <= begins);
    if (lane < 0) lane = free.length;
    free[lane] = Math.max(one.to.getTime(), begins + 1_200_000);
    group.lanes = Math.max(group.lanes, free.length);
    placed.push({ entry: one, lane, group });
  }
  const share = (/** @type {number} */ at) => Math.min(1, Math.max(0, (at - from.getTime()) / (to.getTime() - from.getTime()))) * 100;
  return placed.map(({ entry: one, lane, group: { lanes: all } }) => {
    const top = share(one.from.getTime());
    return entry(one, {
      top: top + "%", height: Math.max(2.5, share(one.to.getTime()) - top) + "%", left: lane / all * 100 + "%", width: 100 / all + "%",
    });
  });
}

/** @param {Date} date */
function startOfWeek(date) {
  const monday = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  return addDays(monday, -((monday.getDay() + 6) % 7));
}

/** @param {Date} date @param {number} n days of the calendar: one with a change of the clocks is longer or shorter */
function addDays(date, n) { return new Date(date.getFullYear(), date.getMonth(), date.getDate() + n); }

