// The tiers as drop zones, with a chip for each response. Chips are dragged, or cards by their handle: with mouse, pen or
// finger alike (pointer events). A click on a chip goes to its card.

import { el } from "./dom.js";

const MOVED = 6; // pixels after which a press is a drag
const EDGE = 60; // pixels from the window's edge where a drag scrolls the page

export class Board {
  constructor(root, answer, on) {
    this.root = root;
    this.answer = answer;
    this.on = on; // {place, go}
  }

  refresh() {
    const { answer } = this;
    const zones = [this.zone(null, "Not placed", answer.unplaced())];
    for (let tier = 1; tier <= answer.size; tier++) {
      const label = tier === 1 ? "1 best" : tier === answer.size ? `${tier} worst` : String(tier);
      zones.push(this.zone(tier, label, answer.onTier(tier)));
    }
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.position : null;
    this.root.replaceChildren(...zones);
    if (focused) this.root.querySelector(`[data-position="${focused}"]`)?.focus();
  }

  zone(tier, label, positions) {
    const tie = tier !== null && positions.length > 1 ? ", tie" : "";
    const zone = el("div", {
      class: tier === null ? "tier unplaced" : "tier", role: "group", "data-tier": tier ?? "none",
      "aria-label": `${tier === null ? label : `Tier ${label}`}: ${positions.map((p) => this.answer.letter(p)).join(", ") || "empty"}${tie}`,
    }, el("span", { class: "name" }, label + tie), ...positions.map((p) => this.chip(p)));
    return zone;
  }

  chip(position) {
    const letter = this.answer.letter(position);
    const points = this.answer.likert.get(position);
    const chip = el("button", { class: "chip", "data-position": position, "aria-label": `Go to response ${letter}` }, letter, points ? el("small", {}, ` ${points}/7`) : "");
    chip.addEventListener("pointerdown", (event) => this.grab(event, position));
    chip.addEventListener("click", () => this.on.go(position));
    return chip;
  }

  /** Follow the pointer from a handle or chip until it is let go over a tier. */
  grab(event, position) {
    if (event.button !== 0) return;
    const start = { x: event.clientX, y: event.clientY };
    const source = event.currentTarget;
    let ghost = null;
    let over = null;
    const move = (e) => {
      if (!ghost && Math.hypot(e.clientX - start.x, e.clientY - start.y) < MOVED) return;
      if (!ghost) {
        ghost = el("div", { class: "ghost", "aria-hidden": "true" }, this.answer.letter(position));
        document.body.append(ghost);
      }
      e.preventDefault();
      ghost.style.left = `${e.clientX + 8}px`;
      ghost.style.top = `${e.clientY + 8}px`;
      if (e.clientY < EDGE) window.scrollBy(0, -20);
      if (e.clientY > window.innerHeight - EDGE) window.scrollBy(0, 20);
      const zone = document.elementFromPoint(e.clientX, e.clientY)?.closest(".tier") ?? null;
      if (zone !== over) {
        over?.classList.remove("over");
        zone?.classList.add("over");
        over = zone;
      }
    };
    const end = (e) => {
      document.removeEventListener("pointermove", move);
      document.removeEventListener("pointerup", end);
      document.removeEventListener("pointercancel", end);
      over?.classList.remove("over");
      if (!ghost) return;
      ghost.remove();
      // The click that follows a drag would go to the card.
      const stop = (click) => { click.stopPropagation(); click.preventDefault(); };
      source.addEventListener("click", stop, { capture: true, once: true });
      setTimeout(() => source.removeEventListener("click", stop, { capture: true }), 0);
      if (e.type === "pointerup" && over) this.on.place(position, over.dataset.tier === "none" ? null : Number(over.dataset.tier));
    };
    document.addEventListener("pointermove", move, { passive: false });
    document.addEventListener("pointerup", end);
    document.addEventListener("pointercancel", end);
  }
}
