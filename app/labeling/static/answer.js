// One answer in the making: what is rated, placed and ticked, with undo. No page in here.
// Responses are known by their position in the task; letters follow the order on the screen.

export class Answer {
  constructor(task) {
    this.task = task;
    this.positions = task.responses.map((r) => r.position);
    this.size = this.positions.length;
    this.tierOf = new Map(); // position -> tier from 1
    this.likert = new Map();
    this.flags = new Map(this.positions.map((p) => [p, new Set()]));
    this.promptFlags = new Set();
    this.useCase = "";
    this.language = "";
    this.comment = "";
    this.activeSeconds = 0;
    this.step = "rate";
    this.seen = null; // text | rendered | both: what the labeler has looked at
    this.fromRatings = false; // the ranking was started from the ratings
    this.history = [];
  }

  letter(position) {
    return String.fromCharCode(65 + this.positions.indexOf(position));
  }

  remember() {
    this.history.push(JSON.stringify(this.body()));
    if (this.history.length > 200) this.history.shift();
  }

  undo() {
    const last = this.history.pop();
    if (last === undefined) return false;
    const seconds = this.activeSeconds;
    const { step, seen } = this;
    this.load(JSON.parse(last));
    this.activeSeconds = seconds;
    this.step = step;
    this.seen = seen;
    return true;
  }

  place(position, tier) {
    if (this.tierOf.get(position) === tier) return;
    this.remember();
    if (tier === null) this.tierOf.delete(position);
    else this.tierOf.set(position, tier);
  }

  rate(position, points) {
    this.remember();
    this.likert.set(position, points);
  }

  /** The labeler looks at this view (text | rendered) now. */
  saw(view) {
    this.seen = this.seen === null || this.seen === view ? view : "both";
  }

  /** Whether the ranking can be started from the ratings: all are rated, and nothing is placed that it would undo. */
  canStartFromRatings() {
    const { task } = this;
    return Boolean(task.start_from_ratings && task.form.likert && !this.unrated().length && !this.tierOf.size);
  }

  /** Tiers in the order of the ratings; equal ratings tie, or are left to be placed where ties are not allowed. */
  startFromRatings() {
    this.remember();
    const points = [...new Set(this.likert.values())].sort((a, b) => b - a);
    let tier = 1;
    for (const value of points) {
      const equal = this.positions.filter((p) => this.likert.get(p) === value);
      if (equal.length === 1 || this.task.ties_allowed) for (const p of equal) this.tierOf.set(p, tier);
      tier += this.task.ties_allowed ? 1 : equal.length;
    }
    this.fromRatings = true;
  }

  /** Where the hands go on: the next response in screen order that this step still asks for, or null. */
  pending(after = null) {
    const left = this.step === "rate" ? this.unrated() : this.unplaced();
    const from = after === null ? -1 : this.positions.indexOf(after);
    return left.find((p) => this.positions.indexOf(p) > from) ?? left[0] ?? null;
  }

  toggle(set, name) {
    this.remember();
    if (!set.delete(name)) set.add(name);
  }

  /** Positions on a tier, in screen order. */
  onTier(tier) {
    return this.positions.filter((p) => this.tierOf.get(p) === tier);
  }

  unplaced() {
    return this.positions.filter((p) => !this.tierOf.has(p));
  }

  unrated() {
    return this.task.form.likert ? this.positions.filter((p) => !this.likert.has(p)) : [];
  }

  /** Pairs [better rated, better ranked] that the ratings and the ranking order differently. */
  contradictions() {
    const found = [];
    for (const a of this.positions) {
      for (const b of this.positions) {
        const ranked = this.tierOf.has(a) && this.tierOf.has(b) && this.tierOf.get(a) > this.tierOf.get(b);
        if (ranked && this.likert.get(a) > this.likert.get(b)) found.push([a, b]);
      }
    }
    return found;
  }

  /** What the server stores, as a draft or as an answer. */
  body() {
    const tiers = [];
    for (let tier = 1; tier <= this.size; tier++) tiers.push(this.onTier(tier));
    return {
      tiers,
      responses: this.positions.map((position) => ({
        position, likert: this.likert.get(position) ?? null, flags: [...this.flags.get(position)].sort(),
      })),
      prompt_flags: [...this.promptFlags].sort(),
      use_case: this.useCase || null,
      language: this.language || null,
      comment: this.comment || null,
      active_seconds: this.activeSeconds,
      step: this.step,
      seen: this.seen,
      from_ratings: this.fromRatings,
    };
  }

  load(body) {
    this.tierOf = new Map(body.tiers.flatMap((tier, i) => tier.map((position) => [position, i + 1])));
    this.likert = new Map();
    this.flags = new Map(this.positions.map((p) => [p, new Set()]));
    for (const r of body.responses) {
      if (r.likert !== null) this.likert.set(r.position, r.likert);
      this.flags.set(r.position, new Set(r.flags));
    }
    this.promptFlags = new Set(body.prompt_flags);
    this.useCase = body.use_case || "";
    this.language = body.language || "";
    this.comment = body.comment || "";
    this.activeSeconds = body.active_seconds || 0;
    this.step = body.step || this.step;
    this.seen = body.seen ?? this.seen;
    this.fromRatings = body.from_ratings || false;
  }
}
