import { api } from "../client/fdc.js";
import { h } from "./dom.js";
import { t, time } from "./i18n.js";

/**
 * Where the user is signed in, and signing out there.
 * @param {import("./app.js").Context} context
 */
export function devices({ root, signal, follow, toast, attempt }) {
  const list = h("ul", { className: "devices", id: "devices" });
  const load = () => attempt(async () => {
    const { items } = await api("/api/auth/sessions?limit=200", { signal });
    list.replaceChildren(...items.map((/** @type {any} */ device) => h("li", { className: "card" },
      h("strong", null, name(device.userAgent), device.current && h("span", { className: "badge" }, t("thisDevice"))),
      h("span", { title: device.userAgent }, `${t("address")}: ${device.ip || "–"}`),
      h("span", null, `${t("signedIn")}: ${time(device.createdAt)}`),
      h("span", null, `${t("lastSeen")}: ${time(device.lastSeenAt)}`),
      !device.current && h("button", {
        type: "button", className: "danger", onclick: () => attempt(async () => {
          await api("/api/auth/sessions/" + device.id, { method: "DELETE" });
          toast(t("revoked"));
          await load();
        }),
      }, t("revoke")))));
  });
  root.replaceChildren(
    h("h1", null, t("devices")),
    h("div", { className: "row" }, h("button", {
      type: "button", className: "danger", onclick: () => attempt(async () => {
        await api("/api/auth/sessions", { method: "DELETE" });
        toast(t("revoked"));
        await load();
      }),
    }, t("revokeOthers"))),
    list);
  follow(load, (event) => event.type.startsWith("fdc.session."), 5000);
}

/** @param {string} agent */
function name(agent) {
  const browser = ["Edg", "OPR", "Firefox", "Chrome", "Safari"].find((one) => agent.includes(one + "/"));
  const system = ["Windows", "Android", "iPhone", "iPad", "Mac OS X", "Linux"].find((one) => agent.includes(one));
  const known = /** @type {Record<string, string>} */ ({ Edg: "Edge", OPR: "Opera" })[browser ?? ""] ?? browser;
  return [known, system].filter(Boolean).join(", ") || agent.slice(0, 60) || "–";
}
