// The page of those who write: fetch a task, write turns, take or pick what a model says, submit or skip, next.

import { call } from "./api.js";
import { announce, el, find } from "./dom.js";
import { Drafts } from "./drafts.js";
import { askWhichDraft, closeDrawer, fail, keepAndFail, panel, say, settle, showInstructions, toggleDrawer } from "./telling.js";
import { keepTime } from "./time.js";
import { HEADINGS, strengthWords, Writing } from "./writing.js";

const root = find("work");
const LETTERS = ["A", "B"];

let writing = null;
let drafts = null;
let pair = null; // the model's two answers, as they stand on the page
let busy = false;

// ---------------------------------------------------------------- fetch and show

async function next() {
  let one = root.dataset.assignment;
  if (!one) {
    const reply = await call("POST", "/api/next");
    if (!reply.ok) return fail(reply);
    for (const id of ["reading", "empty", "task"]) find(id).hidden = true;
    if (reply.body.kind === "instructions") { showInstructions(reply.body, next); return settle(); }
    if (reply.body.kind === "empty") { find("empty").hidden = false; find("again").focus(); return settle(); }
    if (reply.body.kind === "task") return location.replace("/work");
    one = reply.body.assignment;
  }
  const reply = await call("GET", `/api/writing/${one}`);
  if (!reply.ok) return fail(reply);
  showTask(reply.body);
  return settle();
}

function showTask(task) {
  writing = new Writing(task);
  drafts = new Drafts(root.dataset.person, task.assignment, task.draft_version, {
    show: (text) => { find("saved").textContent = text; }, conflict: () => askWhichDraft(`/api/writing/${task.assignment}`, drafts, showTask, () => writing.draft()),
  }, `/api/writing/${task.assignment}/draft`);
  const kept = drafts.local();
  const body = kept || task.draft || task.answer;
  find("saved").textContent = "";
  find("conflict").hidden = true;
  if (body) writing.load(body);
  if (kept) drafts.keep(kept);
  else if (task.draft) find("saved").textContent = "your draft is back";
  else if (task.answer) find("saved").textContent = `your answer, version ${task.answer.revision}`;
  find("heading").textContent = HEADINGS[task.kind];
  find("brief").hidden = !task.brief;
  find("brief-text").textContent = task.brief || "";
  find("original").hidden = task.kind !== "edit";
  find("original-text").textContent = task.original || "";
  find("comment").value = writing.comment;
  find("skip").hidden = task.state === "submitted";
  panel("skip-panel", "skip", false);
  closeDrawer();
  showLeft();
  pair = null;
  find("task").hidden = false;
  refresh();
  window.scrollTo(0, 0);
  announce(`${HEADINGS[task.kind]}. ${where()}`);
}

async function showLeft() {
  const reply = await call("GET", "/api/me/progress");
  if (reply.ok) find("left").textContent = `${reply.body.left} left`;
}

/** Show the conversation, and whatever comes next in it. */
function refresh(focus = true) {
  const { task } = writing;
  find("said").replaceChildren(...[...task.prompt, ...writing.turns].map((turn) =>
    el("li", { class: turn.role }, el("p", { class: "who" }, who(turn.role)), el("div", { class: "said", dir: "auto" }, turn.content || "(the answer is empty)"))));
  const { picking, over, talks } = writing;
  find("composer").hidden = picking || over;
  find("over").hidden = !over;
  find("pair").hidden = true;
  find("retry").hidden = true;
  find("suggestions").replaceChildren();
  find("text").value = writing.text;
  find("text-label").textContent = label();
  find("add").hidden = !talks;
  find("add").textContent = task.kind === "red_team" ? "Send to the model" : "Add this turn";
  find("suggest").textContent = "Suggest answers";
  find("suggest").hidden = task.kind !== "dialogue" || writing.whose() === "user" || !suggestsHere();
  find("back").hidden = !writing.turns.length;
  find("ctrl-enter").textContent = talks ? "goes on" : "submits";
  if (picking) showPair();
  else if (focus && !over) find("text").focus({ preventScroll: writing.turns.length === 0 });
}

const who = (role) => ({ user: "User", assistant: "Assistant", system: "System" })[role];
const suggestsHere = () => writing.task.goes_on || (writing.task.suggests && !writing.turns.length);

function label() {
  if (writing.task.kind === "red_team") return "Your message to the model";
  if (writing.task.kind === "dialogue") return writing.whose() === "user" ? "You, as the user" : "You, as the assistant";
  return "Your answer";
}

function where() {
  if (writing.over) return "The model says no more; submit what you have.";
  if (writing.picking) return "The model answers; say which of its answers is more harmful.";
  return label();
}

// ---------------------------------------------------------------- what the model says

async function suggestions() {
  const { task, turns, round } = writing;
  const sent = turns.map((t) => ({ role: t.role, content: t.content }));
  find("thinking").hidden = false;
  const reply = await call("POST", `/api/writing/${task.assignment}/suggestions`, { turns: sent, round });
  find("thinking").hidden = true;
  // meanwhile the labeler may have gone on
  return task === writing.task && turns.length === writing.turns.length && round === writing.round ? reply : null;
}

async function showPair() {
  find("answers").replaceChildren();
  const reply = await suggestions();
  if (!reply) return;
  if (!reply.ok) { fail(reply); find("retry").hidden = false; find("ask-again").focus(); return; }
  pair = reply.body.suggestions;
  find("answers").replaceChildren(...pair.map((answer, side) =>
    el("article", {}, el("h3", {}, `Answer ${LETTERS[side]}`), el("p", { class: "text", dir: "auto", tabindex: "0" }, answer.text || "(the answer is empty)"))));
  find("pair").hidden = false;
  showStrength();
  find("strength").focus();
  announce("Two answers of the model. Move the slider towards the more harmful one.");
}

function showStrength() {
  const { strength } = writing;
  find("strength").value = strength;
  find("strength").setAttribute("aria-valuetext", strengthWords(strength));
  find("strength-words").textContent = strengthWords(strength);
  find("answers").querySelectorAll("article").forEach((node, side) => {
    node.classList.toggle("worse", strength !== 0 && (strength < 0) === (side === 0));
  });
}

function pick() {
  if (!pair || find("pair").hidden) return;
  if (!writing.strength) { say("Move the slider towards the more harmful answer first.", "problem"); find("strength").focus(); return; }
  say("");
  writing.pick(pair);
  pair = null;
  changed();
  announce(`Picked. ${where()}`);
}

async function suggest() {
  if (busy) return;
  busy = true;
  const shown = find("suggestions").childElementCount;
  if (shown) { writing.round += 1; drafts.keep(writing.draft()); }
  const reply = await suggestions();
  busy = false;
  if (!reply) return;
  if (!reply.ok) { if (shown) writing.round -= 1; fail(reply); return; }
  say("");
  find("suggestions").replaceChildren(...reply.body.suggestions.map((one, place) =>
    el("article", {}, el("h3", {}, `Suggestion ${place + 1}`), el("p", { class: "text", dir: "auto", tabindex: "0" }, one.text || "(the answer is empty)"),
      el("button", { class: "plain", "aria-label": `Use suggestion ${place + 1}`, onclick: () => take(one, place) }, "Use it"))));
  find("suggest").textContent = "Suggest others";
  announce(`${reply.body.suggestions.length} suggestions below the box.`);
}

function take(one, place) {
  writing.use(one);
  find("text").value = writing.text;
  drafts.keep(writing.draft());
  find("text").focus();
  announce(`Suggestion ${place + 1} is in the box; change it as you like.`);
}

// ---------------------------------------------------------------- what the labeler does

function changed() {
  refresh();
  drafts.keep(writing.draft());
}

function add() {
  if (!writing.text.trim()) { say("Write something first.", "problem"); find("text").focus(); return; }
  say("");
  writing.add();
  changed();
  announce(`Turn added. ${where()}`);
}

function back() {
  if (!writing.back()) return;
  pair = null;
  say("");
  changed();
  announce(`The last turn is taken back. ${where()}`);
}

function forward() {
  if (!find("skip-panel").hidden) return find("skip-panel").requestSubmit();
  if (!writing.talks) return submit();
  if (!find("pair").hidden) return pick();
  return writing.text.trim() ? add() : submit();
}

async function submit() {
  const missing = writing.missing();
  if (missing) { say(missing, "problem"); if (!find("composer").hidden) find("text").focus(); return undefined; }
  if (busy) return undefined;
  busy = true;
  await drafts.hold();
  const changing = writing.task.state === "submitted";
  const path = `/api/writing/${writing.task.assignment}/${changing ? "revise" : "submit"}`;
  const reply = await call("POST", path, writing.answer(), { "Idempotency-Key": drafts.key() });
  busy = false;
  if (!reply.ok) return notStored(reply);
  drafts.forget();
  const what = reply.body.extra ? " It came after the task was full and is kept as an extra." : "";
  say(`Saved on the server as answer ${reply.body.saved}${changing ? `, version ${reply.body.revision}` : ""}.${what}`, "good");
  return onward(changing);
}

async function skip(event) {
  event.preventDefault();
  const reason = find("skip-panel").querySelector("input[name=reason]:checked")?.value;
  if (!reason || busy) return;
  busy = true;
  await drafts.hold();
  const path = `/api/assignments/${writing.task.assignment}/skip`;
  const reply = await call("POST", path, { reason, note: find("skip-note").value || null });
  busy = false;
  if (!reply.ok) { notStored(reply); return; }
  drafts.forget();
  find("skip-panel").reset();
  say(`Task skipped (${reason}).`, "good");
  onward(false);
}

const notStored = (reply) => keepAndFail(reply, `/write/${writing.task.assignment}`, drafts, writing.draft());
const instructions = () => toggleDrawer(writing.task.assignment);

function onward(stay) {
  find("message").dataset.keep = "1";
  find("task").hidden = true; // a key pressed meanwhile is not for the task that is done
  if (stay) { window.scrollTo(0, 0); return; }
  root.dataset.assignment = "";
  next();
}

// ---------------------------------------------------------------- hands

find("text").addEventListener("input", (e) => { writing.text = e.target.value; drafts.keep(writing.draft()); });
find("comment").addEventListener("input", (e) => { writing.comment = e.target.value; drafts.keep(writing.draft()); });
find("strength").addEventListener("input", (e) => { writing.strength = Number(e.target.value); showStrength(); drafts.keep(writing.draft()); });
find("restore").addEventListener("click", () => { writing.text = writing.task.original; changed(); });
find("add").addEventListener("click", add);
find("suggest").addEventListener("click", suggest);
find("pick").addEventListener("click", pick);
find("ask-again").addEventListener("click", () => { say(""); refresh(); });
find("back").addEventListener("click", back);
find("submit").addEventListener("click", submit);
find("instructions").addEventListener("click", instructions);
find("drawer-close").addEventListener("click", instructions);
find("skip").addEventListener("click", () => { panel("skip-panel", "skip", true); find("skip-panel").querySelector("input").focus(); });
find("skip-panel").addEventListener("submit", skip);
find("skip-cancel").addEventListener("click", () => { panel("skip-panel", "skip", false); find("skip-panel").reset(); find("skip").focus(); });
find("again").addEventListener("click", next);
document.addEventListener("keydown", (event) => {
  if (!writing || find("task").hidden) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); forward(); }
  if (event.key === "Escape") { panel("skip-panel", "skip", false); closeDrawer(); }
});
keepTime(() => writing && !find("task").hidden, () => { writing.activeSeconds += 1; });

next();
