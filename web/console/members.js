import { api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";

const roles = ["MEMBER", "ADMIN", "OWNER"];

/**
 * The members of the workspace and the open invitations to it.
 * @param {import("./app.js").Context} context
 */
export function members({ root, workspace, signal, follow, toast, attempt }) {
  const path = "/api/workspaces/" + workspace.id;
  const manages = workspace.role !== "MEMBER";
  const rows = h("tbody");
  const email = h("input", { type: "email", required: true, maxLength: 254, autocomplete: "off", name: "email" });
  const role = h("select", { name: "role" }, roles.filter((one) => one !== "OWNER" || workspace.role === "OWNER").map((one) => h("option", null, one)));

  const load = () => attempt(async () => {
    const list = [];
    for (let cursor = ""; ;) {
      const page = await api(`${path}/members?limit=200${cursor && "&cursor=" + cursor}`, { signal });
      list.push(...page.items);
      if (!page.nextCursor) break;
      cursor = page.nextCursor;
    }
    rows.replaceChildren(...list.map(row));
  });

  /** @param {any} member */
  const row = (member) => h("tr", null,
    h("td", null, member.name || "–"), h("td", null, member.email), h("td", null, member.role),
    h("td", null, member.status === "active" ? t("active") : t("invitedUntil", { time: time(member.expiresAt, { dateStyle: "medium" }) })),
    h("td", null, manages && member.invitationId && (member.role !== "OWNER" || workspace.role === "OWNER") && [
      button(t("resend"), "", () => api(`${path}/invitations/${member.invitationId}:resend`, { method: "POST" }), t("resent", { email: member.email })),
      button(t("withdraw"), "danger", () => api(`${path}/invitations/${member.invitationId}`, { method: "DELETE" }), t("withdrawn")),
    ]));

  /**
   * @param {string} text
   * @param {string} className
   * @param {() => Promise<unknown>} act
   * @param {string} done
   */
  const button = (text, className, act, done) => h("button", {
    type: "button", className, onclick: () => attempt(async () => {
      await act();
      toast(done);
      await load();
    }),
  }, text);

  root.replaceChildren(
    h("h1", null, t("members")),
    manages && h("form", {
      className: "row", id: "invite", onsubmit: (/** @type {Event} */ e) => {
        e.preventDefault();
        attempt(async () => {
          await api(path + "/members", { method: "POST", body: { email: email.value, role: role.value } });
          toast(t("invited", { email: email.value }));
          email.value = "";
          await load();
        });
      },
    }, h("label", null, t("email"), email), h("label", null, t("role"), role), h("button", { className: "primary" }, t("invite"))),
    h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": t("members") }, h("table", { id: "members" },
      h("thead", null, h("tr", null, ["name", "email", "role", "status", "action"].map((key) => h("th", { scope: "col" }, t(/** @type {any} */ (key)))))), rows)));
  follow(load, (event) => event.workspaceid === workspace.id && event.type.startsWith("fdc.workspace.member_"), 3000);
}

/**
 * The open invitations to the user, in every view. load reads and draws them.
 * @param {(work: () => Promise<unknown>) => Promise<void>} attempt
 * @param {(workspaceID: string) => Promise<unknown>} joined called after an acceptance
 */
export function invitations(attempt, joined) {
  const element = h("section", { id: "invitations", hidden: true });
  const load = () => attempt(async () => {
    const { items } = await api("/api/invitations?limit=200");
    element.hidden = items.length === 0;
    element.setAttribute("aria-label", t("invitations"));
    element.replaceChildren(...items.map((/** @type {any} */ one) => h("p", { className: "notice", role: "status" },
      t(one.invitedBy ? "invitedBy" : "invitedTo", { inviter: one.invitedBy, workspace: one.workspaceName, role: one.role }), " ",
      h("button", { type: "button", className: "primary", onclick: () => answer(one, "accept") }, t("accept")), " ",
      h("button", { type: "button", onclick: () => answer(one, "decline") }, t("decline")))));
  });
  /**
   * @param {any} one
   * @param {"accept"|"decline"} how
   */
  const answer = async (one, how) => {
    await attempt(async () => {
      await api(`/api/invitations/${one.id}/${how}`, { method: "POST" });
      if (how === "accept") await joined(one.workspaceId);
    });
    await load(); // also after a failure: it may have been withdrawn
  };
  return { element, load };
}
