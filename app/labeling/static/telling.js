// What the pages of a task tell: what was stored, why something failed, which of two drafts goes on, the instructions.

import { call } from "./api.js";
import { announce, el, find } from "./dom.js";

export function say(text, kind = "") {
  find("message").className = kind;
  find("message").textContent = text;
  if (text && kind === "problem") announce(text);
}

/** What was said stays for one task when it says that something was stored. */
export function settle() {
  if (find("message").dataset.keep !== "1") say("");
  find("message").dataset.keep = "";
}

/** Why a request failed, and the way on. `stored` is the page of the answer that the server has already. */
export function fail(reply, stored = "/mine") {
  say(reply.message, "problem");
  const add = (before, words, attributes, after) => find("message").append(before, el("a", attributes, words), after);
  if (reply.status === 401) add(" ", "Log in in a new tab", { href: "/login", target: "_blank" }, ", then try again here.");
  if (reply.code === "already_answered") add(" ", "Look at the stored answer", { href: stored }, ".");
  const gone = (reply.status === 409 || reply.status === 410) && reply.code !== "no_suggestions";
  if (gone) add(" ", "Go on to the next task", { href: "/work" }, ".");
  const lost = reply.status === 0 || reply.status >= 500;
  if (lost && find("task").hidden) add(" ", "Load this page again", { href: location.pathname }, "."); // nothing else is on it
  find("message").scrollIntoView({ block: "nearest" });
}

/** What was not stored is still a draft: the note beside it says where it is, and does not stay at "saving...". */
export function keepAndFail(reply, stored, drafts, body) {
  fail(reply, stored);
  if (reply.status === 409 || reply.status === 410) find("saved").textContent = "kept in this browser only";
  else drafts.send(body);
}

/** Another tab has written a draft of this task since this page was loaded: show both ways on. */
export async function askWhichDraft(path, drafts, showOther, own) {
  const reply = await call("GET", path);
  if (!reply.ok) return fail(reply);
  const other = reply.body;
  find("conflict").hidden = false;
  find("conflict-theirs").onclick = () => { drafts.forget(); showOther(other); say(""); };
  find("conflict-mine").onclick = () => { find("conflict").hidden = true; drafts.insist(other.draft_version, own()); };
  announce("This task is also open in another tab, which has saved another draft. Choose which one to go on with.");
  find("conflict-theirs").focus();
  return undefined;
}

export function panel(id, button, open) {
  find(id).hidden = !open;
  find(button).setAttribute("aria-expanded", String(open));
}

/** Instructions that have to be read before the first task of their kind; `next` fetches it. */
export function showInstructions(set, next) {
  writeInstructions(find("reading-body"), set);
  find("reading").hidden = false;
  find("reading-done").focus();
  find("reading-done").onclick = async () => {
    const reply = await call("POST", `/api/instructions/${set.id}/read`);
    if (reply.ok) next();
    else fail(reply);
  };
}

/** The instructions beside the task, and away again. */
export async function toggleDrawer(assignment) {
  if (!find("drawer").hidden) { closeDrawer(); find("instructions").focus(); return; }
  const reply = await call("GET", `/api/assignments/${assignment}/instructions`);
  if (!reply.ok) { fail(reply); return; }
  writeInstructions(find("drawer-body"), reply.body);
  panel("drawer", "instructions", true);
  document.body.classList.add("with-drawer");
  find("drawer").focus();
}

export function closeDrawer() {
  panel("drawer", "instructions", false);
  document.body.classList.remove("with-drawer");
}

function writeInstructions(body, set) {
  body.replaceChildren(el("p", { class: "hint" }, `${set.name}, version ${set.version}`));
  for (const part of set.body.split(/\n\n+/)) {
    const text = part.trim();
    if (text.startsWith("# ")) body.append(el("h2", {}, text.slice(2)));
    else if (text.startsWith("- ")) body.append(el("ul", {}, ...text.slice(2).split("\n- ").map((line) => el("li", {}, line))));
    else if (text) body.append(el("p", {}, text));
  }
}
