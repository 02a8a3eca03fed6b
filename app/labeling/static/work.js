// The labeling page: fetch a task, rate, rank, submit or skip, next. Figure 12's two steps.

import { Answer } from "./answer.js";
import { call } from "./api.js";
import { Board } from "./board.js";
import { Cards, tierName } from "./cards.js";
import { announce, el, fill, find } from "./dom.js";
import { Drafts } from "./drafts.js";
import { listen } from "./keys.js";
import { askWhichDraft, closeDrawer, fail, keepAndFail, panel, say, settle, showInstructions, toggleDrawer } from "./telling.js";
import { keepTime } from "./time.js";

const root = find("work");
const WIDE = window.matchMedia("(min-width: 60.01rem) and (min-height: 40rem)"); // enough for all responses in one view

let answer = null;
let cards = null;
let board = null;
let drafts = null;
let current = null; // position of the card in focus
let raw = false; // the rendered view is put aside for the text itself
let busy = false;
let oneView = null; // what this labeler chose with V

// ---------------------------------------------------------------- fetch and show

async function next() {
  const one = root.dataset.assignment;
  const reply = one ? await call("GET", `/api/assignments/${one}`) : await call("POST", "/api/next");
  if (!reply.ok) return fail(reply);
  const { kind } = reply.body;
  if (kind === "writing") return location.replace(one ? `/write/${one}` : "/write");
  for (const id of ["reading", "empty", "task"]) find(id).hidden = true;
  if (kind === "task") showTask(reply.body);
  if (kind === "empty") { find("empty").hidden = false; find("again").focus(); }
  if (kind === "instructions") showInstructions(reply.body, next);
  settle();
  return undefined;
}

function showTask(task) {
  answer = new Answer(task);
  drafts = new Drafts(root.dataset.person, task.assignment, task.draft_version, {
    show: (text) => { find("saved").textContent = text; }, conflict: () => askWhichDraft(`/api/assignments/${task.assignment}`, drafts, showTask, () => answer.body()),
  });
  const kept = drafts.local();
  const body = kept || task.draft || task.answer;
  find("saved").textContent = "";
  find("conflict").hidden = true;
  if (body) answer.load(body);
  if (kept) drafts.keep(kept);
  else if (task.draft) find("saved").textContent = "your draft is back";
  else if (task.answer) find("saved").textContent = `your answer, version ${task.answer.revision}`;
  cards = new Cards(find("cards"), answer, { rate, flag, place, grab: (event, position) => board.grab(event, position) });
  board = new Board(find("tiers"), answer, { place, go: (position) => cards.focus(position) });
  raw = false;
  answer.saw(task.view);
  find("raw").hidden = task.view !== "rendered";
  find("raw").setAttribute("aria-pressed", "false");
  showPrompt(task);
  closeDrawer();
  find("left").textContent = `${task.left} left`;
  find("comment").value = answer.comment;
  find("shorten").hidden = !find("cards").querySelector(".more");
  find("skip").hidden = task.state === "submitted";
  current = null;
  closePanels();
  find("task").hidden = false;
  setStep(answer.step, false);
  current = answer.pending() ?? answer.positions[0];
  cards.nodes.get(current).focus({ preventScroll: true }); // the first key rates, without a letter before it
  window.scrollTo(0, 0);
  announce(`Task with ${answer.size} responses; ${answer.letter(current)} comes first. Press question mark for keys.`);
}

function showPrompt(task) {
  showMessages(task);
  const { form } = task;
  find("about-prompt").hidden = !form.prompt_flags.length && !form.use_cases.length && !form.languages;
  find("prompt-flags").replaceChildren(...form.prompt_flags.map((flag) =>
    el("label", {}, el("input", { type: "checkbox", value: flag.name, onchange: () => change(() => answer.toggle(answer.promptFlags, flag.name)) }), flag.label)));
  find("use-case-label").hidden = !form.use_cases.length;
  find("use-case").replaceChildren(el("option", { value: "" }, "not said"), ...form.use_cases.map((name) => el("option", { value: name }, name)));
  find("language-label").hidden = !form.languages;
  find("prompt").scrollTop = 0;
}

function showMessages(task) {
  find("messages").replaceChildren(...task.prompt.flatMap((m) => {
    const said = el("div", { class: "said", dir: "auto" });
    fill(said, { text: m.content, html: m.html }, raw);
    return [el("p", { class: "who" }, m.role), said];
  }));
}

function refresh() {
  cards.refresh();
  board.refresh();
  for (const input of find("prompt-flags").querySelectorAll("input")) input.checked = answer.promptFlags.has(input.value);
  find("about-count").textContent = answer.promptFlags.size ? `(${answer.promptFlags.size} ticked)` : "";
  if (document.activeElement !== find("use-case")) find("use-case").value = answer.useCase;
  if (document.activeElement !== find("language")) find("language").value = answer.language;
  find("from-ratings").hidden = answer.step !== "rank" || !answer.canStartFromRatings();
  const unrated = answer.unrated().length;
  const unplaced = answer.unplaced().length;
  find("counts").textContent = answer.step === "rate"
    ? (answer.task.form.likert ? `${answer.size - unrated} of ${answer.size} rated` : "")
    : `${answer.size - unplaced} of ${answer.size} placed`;
  const pairs = answer.contradictions().map(([a, b]) =>
    `${answer.letter(a)} (rated ${answer.likert.get(a)}) is below ${answer.letter(b)} (rated ${answer.likert.get(b)})`);
  const warning = find("contradiction");
  warning.hidden = !pairs.length;
  const more = pairs.length > 2 ? `; and ${pairs.length - 2} more` : "";
  const text = pairs.length ? `Ratings and ranks differ: ${pairs.slice(0, 2).join("; ")}${more}. You may submit so.` : "";
  if (warning.textContent !== text) warning.textContent = text;
}

// ---------------------------------------------------------------- what the labeler does

function change(how) {
  how();
  refresh();
  drafts.keep(answer.body());
}

function rate(position, points) {
  current = position;
  change(() => answer.rate(position, points));
  announce(`${answer.letter(position)} rated ${points}.`);
}

function flag(position, name) {
  current = position;
  change(() => answer.toggle(answer.flags.get(position), name));
}

function place(position, tier) {
  current = position;
  change(() => answer.place(position, tier));
  const others = tier === null ? [] : answer.onTier(tier).filter((p) => p !== position).map((p) => answer.letter(p));
  const where = tier === null ? "taken off the tiers" : `on tier ${tierName(tier, answer.size)}${others.length ? `, tied with ${others.join(" and ")}` : ""}`;
  announce(`${answer.letter(position)} ${where}. ${answer.size - answer.unplaced().length} of ${answer.size} placed.`);
}

function setStep(step, byHand = true) {
  answer.step = step;
  document.body.classList.toggle("ranking", step === "rank");
  document.body.classList.toggle("rating", step === "rate");
  find("step-rate").setAttribute("aria-pressed", String(step === "rate"));
  find("step-rank").setAttribute("aria-pressed", String(step === "rank"));
  find("forward").hidden = step === "rank";
  find("submit").hidden = step === "rate";
  showOverview();
  refresh();
  if (!byHand) return;
  drafts.keep(answer.body());
  window.scrollTo(0, 0);
  const first = (step === "rank" ? answer.unplaced() : answer.unrated())[0] ?? answer.positions[0];
  cards.focus(first);
  announce(step === "rank" ? "Step 2: rank. Press a digit to put the response on a tier." : "Step 1: rate.");
}

function forward() {
  if (!find("skip-panel").hidden) return find("skip-panel").requestSubmit();
  if (answer.step === "rank") return submit();
  const missing = answer.unrated();
  if (missing.length) return point(missing, "not rated yet");
  say(""); // what was missing is there
  return setStep("rank");
}

/** After a key: on to the next response that this step asks for. The pointer goes where it wants by itself. */
function moveOn() {
  const coming = answer.pending(current);
  if (coming === null) {
    const said = find("announce").textContent.trim(); // what the key has just done
    announce(`${said} ${answer.step === "rate" ? "Control Enter goes on to ranking." : "Control Enter submits."}`);
    return;
  }
  current = coming;
  cards.focus(coming);
}

function startFromRatings() {
  if (answer.step !== "rank" || !answer.canStartFromRatings()) return;
  change(() => answer.startFromRatings());
  const left = answer.pending();
  current = left ?? answer.positions[0];
  cards.focus(current);
  announce(left === null ? "All are placed by your ratings; change what you rank otherwise." : "Placed by your ratings; equal ratings are left to be placed.");
}

// ---------------------------------------------------------------- ways to look

function toggleRaw() {
  if (answer.task.view !== "rendered") return;
  raw = !raw;
  answer.saw(raw ? "text" : "rendered");
  cards.showRaw(raw);
  showMessages(answer.task);
  find("raw").setAttribute("aria-pressed", String(raw));
  drafts.keep(answer.body());
  announce(raw ? "Raw text." : "Rendered.");
}

/** Many responses are ranked in one view, if the window is wide enough for it and the labeler has not said otherwise. */
function showOverview() {
  const on = WIDE.matches && answer.step === "rank" && (oneView ?? answer.size > 4);
  find("overview").hidden = !WIDE.matches || answer.step !== "rank";
  find("overview").setAttribute("aria-pressed", String(on));
  cards.overview(on);
}

function toggleOverview() {
  if (find("overview").hidden) return;
  oneView = find("overview").getAttribute("aria-pressed") !== "true";
  showOverview();
  announce(oneView ? "All responses in one view." : "Responses at full length.");
}

/** Say what is missing and go there; the button itself never goes dead. */
function point(positions, what) {
  const letters = positions.map((p) => answer.letter(p)).join(", ");
  say(`${letters} ${positions.length === 1 ? "is" : "are"} ${what}.`, "problem");
  cards.focus(positions[0]);
}

async function submit() {
  const unrated = answer.unrated();
  if (unrated.length) { setStep("rate"); return point(unrated, "not rated yet"); }
  if (answer.unplaced().length) return point(answer.unplaced(), "not placed yet");
  if (busy) return undefined;
  busy = true;
  await drafts.hold();
  const { step, ...body } = answer.body();
  const changing = answer.task.state === "submitted";
  const path = `/api/assignments/${answer.task.assignment}/${changing ? "revise" : "submit"}`;
  const reply = await call("POST", path, body, { "Idempotency-Key": drafts.key() });
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
  const path = `/api/assignments/${answer.task.assignment}/skip`;
  const reply = await call("POST", path, { reason, note: find("skip-note").value || null });
  busy = false;
  if (!reply.ok) { notStored(reply); return; }
  drafts.forget();
  say(`Task skipped (${reason}).`, "good");
  onward(false);
}

const notStored = (reply) => keepAndFail(reply, `/work/${answer.task.assignment}`, drafts, answer.body());
const instructions = () => toggleDrawer(answer.task.assignment);

function onward(stay) {
  find("message").dataset.keep = "1";
  find("task").hidden = true; // a key pressed meanwhile is not for the task that is done
  if (stay) { window.scrollTo(0, 0); return; }
  root.dataset.assignment = "";
  next();
}

// ---------------------------------------------------------------- panels

function closePanels() {
  panel("help-panel", "help", false);
  panel("skip-panel", "skip", false);
  find("skip-panel").reset();
}

function toggleHelp() {
  panel("help-panel", "help", find("help-panel").hidden);
  if (!find("help-panel").hidden) find("help-panel").scrollIntoView({ block: "nearest" });
}

function openSkip() {
  if (find("skip").hidden) return;
  panel("skip-panel", "skip", true);
  find("skip-panel").querySelector("input").focus();
}

function undo() {
  if (!answer.undo()) { announce("Nothing to undo."); return; }
  refresh();
  find("comment").value = answer.comment;
  drafts.keep(answer.body());
  const again = answer.pending();
  if (again !== null) { current = again; cards.focus(again); }
  announce(again === null ? "Undone." : `Undone. At ${answer.letter(again)}.`);
}

const withCard = (run) => {
  if (current === null) announce("Choose a response first: press its letter.");
  else run(current);
};

listen({
  count: () => answer.size,
  go: (index) => { if (index < answer.size) { current = answer.positions[index]; cards.focus(current); } },
  place: (tier) => {
    if (answer.step === "rate") return announce("You are rating: Shift with a digit rates; Control Enter goes on to ranking.");
    return tier <= answer.size ? withCard((p) => { place(p, tier); moveOn(); }) : announce(`There are ${answer.size} tiers.`);
  },
  rate: (points) => { if (points <= 7 && answer.task.form.likert) withCard((p) => { rate(p, points); if (answer.step === "rate") moveOn(); }); },
  flags: () => { if (answer.step === "rank") setStep("rate", false); withCard((p) => cards.openFlags(p)); },
  skip: openSkip, undo, help: toggleHelp, forward, close: () => { closePanels(); closeDrawer(); },
  raw: toggleRaw, fromRatings: startFromRatings, overview: toggleOverview, instructions,
}, () => answer !== null && !find("task").hidden);

find("step-rate").addEventListener("click", () => setStep("rate"));
find("step-rank").addEventListener("click", () => setStep("rank"));
find("forward").addEventListener("click", forward);
find("submit").addEventListener("click", submit);
find("raw").addEventListener("click", toggleRaw);
find("from-ratings").addEventListener("click", startFromRatings);
find("overview").addEventListener("click", toggleOverview);
find("instructions").addEventListener("click", instructions);
find("drawer-close").addEventListener("click", instructions);
find("undo").addEventListener("click", undo);
find("help").addEventListener("click", toggleHelp);
find("skip").addEventListener("click", openSkip);
find("skip-panel").addEventListener("submit", skip);
find("skip-cancel").addEventListener("click", closePanels);
find("again").addEventListener("click", next);
find("shorten").addEventListener("click", () => {
  const short = find("shorten").getAttribute("aria-pressed") !== "true";
  find("shorten").setAttribute("aria-pressed", String(short));
  cards.shortenAll(short);
});
find("fold").addEventListener("click", () => {
  const folded = find("prompt").classList.toggle("folded");
  find("fold").textContent = folded ? "Unfold" : "Fold";
  find("fold").setAttribute("aria-expanded", String(!folded));
});
WIDE.addEventListener("change", () => { if (answer) showOverview(); }); // zoomed, or a phone that is turned
// On a narrow screen the prompt sticks to the top; cards that are gone to stop below it.
new ResizeObserver(() => {
  document.documentElement.style.setProperty("--prompt-height", `${find("prompt").offsetHeight}px`);
}).observe(find("prompt"));
find("use-case").addEventListener("change", (e) => change(() => { answer.useCase = e.target.value; }));
find("language").addEventListener("input", (e) => change(() => { answer.language = e.target.value; }));
find("comment").addEventListener("input", (e) => change(() => { answer.comment = e.target.value; }));
find("cards").addEventListener("focusin", (e) => { current = Number(e.target.closest(".card").dataset.position); });

keepTime(() => answer && !find("task").hidden, () => { answer.activeSeconds += 1; });

next();
