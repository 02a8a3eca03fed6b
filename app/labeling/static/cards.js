// The responses: full text, ratings and flags (step 1), tier buttons (step 2). Cards never move.

import { el, fill } from "./dom.js";

const SHORT = 1200; // characters above which a card can be shortened

export class Cards {
  constructor(root, answer, on) {
    this.root = root;
    this.answer = answer;
    this.on = on; // {rate, flag, place, grab}
    this.nodes = new Map(answer.task.responses.map((r) => [r.position, this.build(r)]));
    root.replaceChildren(...this.nodes.values());
  }

  build(response) {
    const { position, text } = response;
    const letter = this.answer.letter(position);
    const handle = el("button", { class: "handle plain", "aria-label": `Drag response ${letter} to a tier`, tabindex: "-1" }, "\u2807");
    handle.addEventListener("pointerdown", (event) => this.on.grab(event, position));
    const card = el(
      "article",
      { class: "card", id: `card-${position}`, tabindex: "-1", "aria-labelledby": `letter-${position}`, "data-position": position },
      el("header", {},
        el("h2", { class: "letter", id: `letter-${position}` }, `Response ${letter}`), el("span", { class: "place" }), handle,
        this.scale(position, letter), this.chooser(position, letter)),
      el("div", { class: "answer", dir: "auto" }),
    );
    fill(card.querySelector(".answer"), response, false);
    if (text.length > SHORT) card.append(this.moreButton(card, letter));
    card.append(this.flagBox(position, letter));
    return card;
  }

  moreButton(card, letter) {
    const button = el("button", { class: "plain more", "aria-expanded": "true" }, `Shorten ${letter}`);
    button.addEventListener("click", () => shorten(card, !card.classList.contains("short")));
    return button;
  }

  scale(position, letter) {
    const { form } = this.answer.task;
    if (!form.likert) return "";
    const points = choices(`likert-${position}`, 7, (value) => `${value} of 7`, (value) => this.on.rate(position, value));
    return el("fieldset", { class: "scale rate" },
      el("legend", { class: "unseen" }, `How good is response ${letter}? 1 is ${form.likert_low}, 7 is ${form.likert_high}`),
      el("small", {}, form.likert_low), ...points, el("small", {}, form.likert_high));
  }

  chooser(position, letter) {
    const tiers = choices(`tier-${position}`, this.answer.size, (value) => `tier ${tierName(value, this.answer.size)}`, (value) => this.on.place(position, value));
    return el("fieldset", { class: "scale choose" },
      el("legend", { class: "unseen" }, `Tier of response ${letter}: 1 is best, the same tier is a tie`),
      el("small", {}, "best"), ...tiers, el("small", {}, "worst"));
  }

  flagBox(position, letter) {
    const { form } = this.answer.task;
    if (!form.response_flags.length) return "";
    const flags = form.response_flags.map((flag) =>
      el("label", {}, el("input", { type: "checkbox", value: flag.name, onchange: () => this.on.flag(position, flag.name) }), flag.label));
    return el("details", { class: "flag-box" },
      el("summary", {}, `Flags of ${letter} `, el("span", { class: "flag-count hint" })), el("div", { class: "flags" }, ...flags));
  }

  /** Show what the answer holds. */
  refresh() {
    const { answer } = this;
    for (const [position, card] of this.nodes) {
      const tier = answer.tierOf.get(position);
      const points = answer.likert.get(position);
      for (const input of card.querySelectorAll(".rate input")) input.checked = Number(input.value) === points;
      for (const input of card.querySelectorAll(".choose input")) input.checked = Number(input.value) === tier;
      const ticked = answer.flags.get(position);
      for (const input of card.querySelectorAll(".flags input")) input.checked = ticked.has(input.value);
      const count = card.querySelector(".flag-count");
      if (count) count.textContent = ticked.size ? `${ticked.size} ticked` : "";
      const ranking = answer.step === "rank";
      const rated = points ? `rated ${points}` : answer.task.form.likert ? "not rated" : "";
      card.querySelector(".place").textContent = ranking ? [tier ? `tier ${tier}` : "not placed", rated].filter(Boolean).join(", ") : rated;
      card.classList.toggle("done", ranking ? tier !== undefined : points !== undefined || !answer.task.form.likert);
    }
  }

  focus(position) {
    const card = this.nodes.get(position);
    card.focus({ preventScroll: true });
    const block = this.root.classList.contains("overview") ? "nearest" : "start";
    card.scrollIntoView({ block, behavior: "instant" });
  }

  /** The texts as they were written, or the rendered views of those that have one. */
  showRaw(raw) {
    for (const response of this.answer.task.responses) fill(this.nodes.get(response.position).querySelector(".answer"), response, raw);
  }

  /** All cards beside each other in one view, each with its own scroll bar; `on` false shows them at full length. */
  overview(on) {
    this.root.classList.toggle("overview", on);
    this.root.dataset.rows = Math.ceil(this.answer.size / (this.answer.size > 4 ? 3 : 2));
    // What scrolls must be reached by the keyboard.
    for (const card of this.nodes.values()) card.querySelector(".answer").toggleAttribute("tabindex", on);
    for (const box of this.root.querySelectorAll(".answer[tabindex]")) box.tabIndex = 0;
  }

  /** Open the flags of a response and go to the first. */
  openFlags(position) {
    const box = this.nodes.get(position).querySelector(".flag-box");
    if (!box) return;
    box.open = !box.open;
    (box.open ? box.querySelector("input") : this.nodes.get(position)).focus();
  }

  shortenAll(short) {
    for (const card of this.nodes.values()) if (card.querySelector(".more")) shorten(card, short);
  }
}

/** `1, best` and `9, worst`; those between are numbers. */
export const tierName = (tier, size) => `${tier}${tier === 1 ? ", best" : tier === size ? ", worst" : ""}`;

/** Radio buttons 1 .. count that look like buttons. */
function choices(name, count, label, choose) {
  return Array.from({ length: count }, (_, i) => i + 1).map((value) => el("label", {},
    el("input", { type: "radio", name, value, "aria-label": label(value), onchange: () => choose(value) }), el("span", {}, String(value))));
}

function shorten(card, short) {
  card.classList.toggle("short", short);
  const button = card.querySelector(".more");
  button.textContent = button.textContent.replace(/^(Shorten|Show all of)/, short ? "Show all of" : "Shorten");
  button.setAttribute("aria-expanded", String(!short));
}
