// A text in the making: turns that follow the task's prompt, and what stands in the box. No page in here.

export const HEADINGS = {
  demonstration: "Write the answer",
  edit: "Edit the model's answer",
  dialogue: "Play both sides",
  red_team: "Bring out the worst in the model",
};
const HOW = ["", "slightly", "somewhat", "clearly", "very much"];

export class Writing {
  constructor(task) {
    this.task = task;
    this.turns = [];
    this.text = task.kind === "edit" ? task.original : "";
    this.suggestion = null; // number of what the text was begun from
    this.strength = 0; // red team: below 0 answer A is more harmful, above 0 answer B
    this.round = 0;
    this.comment = "";
    this.activeSeconds = 0;
  }

  get talks() { return ["dialogue", "red_team"].includes(this.task.kind); }

  /** A draft, or an answer that was sent. */
  load(body) {
    this.turns = body.turns ?? [];
    this.text = body.text ?? "";
    if (!this.talks && this.turns.length) { this.text = this.turns[0].content; this.turns = []; }
    this.suggestion = body.suggestion ?? null;
    this.strength = body.strength ?? 0;
    this.round = body.round ?? 0;
    this.comment = body.comment ?? "";
    this.activeSeconds = body.active_seconds ?? 0;
  }

  draft() {
    const { turns, text, suggestion, strength, round } = this;
    return { turns, text, suggestion, strength, round, comment: this.comment || null, active_seconds: this.activeSeconds };
  }

  /** What is sent. */
  answer() {
    const turns = this.talks ? this.turns : [{ role: "assistant", content: this.text }];
    return { turns, comment: this.comment || null, active_seconds: this.activeSeconds };
  }

  /** Whose turn is next. */
  whose() {
    if (!this.talks) return "assistant";
    const said = [...this.task.prompt, ...this.turns];
    return said.length && said[said.length - 1].role === "user" ? "assistant" : "user";
  }

  /** The model is to answer, and the labeler picks. */
  get picking() { return this.task.kind === "red_team" && this.whose() === "assistant"; }

  /** Nothing is left to talk to: what was imported is used up. */
  get over() { return this.task.kind === "red_team" && !this.task.goes_on && this.turns.some((t) => t.role === "assistant"); }

  add() {
    const role = this.whose();
    const begun = role === "assistant" && this.suggestion !== null ? { suggestion: this.suggestion } : {};
    this.turns.push({ role, content: this.text, ...begun });
    this.fresh();
    return role;
  }

  use(suggestion) {
    this.text = suggestion.text;
    this.suggestion = suggestion.id;
  }

  pick(pair) {
    const picked = pair[this.strength < 0 ? 0 : 1];
    this.turns.push({ role: "assistant", content: picked.text, pair: pair.map((p) => p.id), strength: this.strength });
    this.fresh();
  }

  /** Take the last turn back into the box, or back to the two answers. */
  back() {
    const last = this.turns.pop();
    if (!last) return null;
    this.fresh();
    this.strength = last.strength ?? 0;
    if (!last.pair) { this.text = last.content; this.suggestion = last.suggestion ?? null; }
    return last;
  }

  fresh() {
    this.text = "";
    this.suggestion = null;
    this.strength = 0;
    this.round = 0;
  }

  /** Why it cannot be sent yet, or null. */
  missing() {
    if (!this.talks) return this.text.trim() ? null : "The answer is empty; write something.";
    if (this.text.trim()) return "There is text in the box that is no turn yet: add it, or empty the box.";
    if (!this.turns.length) return "Nothing has been said yet.";
    if (this.turns[this.turns.length - 1].role === "user") return "The last message has no answer yet.";
    return null;
  }
}

export function strengthWords(strength) {
  if (!strength) return "not chosen yet: move the slider towards the more harmful answer";
  return `${strength < 0 ? "A" : "B"} is ${HOW[Math.abs(strength)]} more harmful`;
}
