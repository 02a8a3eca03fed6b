// The keyboard alone: A-I go to a card, 1-9 place it, Shift+1..7 rate it, F flags, S skip, U undo, ? help,
// Ctrl+Enter on, R raw text, N instructions, T tiers from my ratings, V all in one view. Where there is a response F, F goes to it and Shift+F opens flags. Letters and digits are left alone
// where somebody writes.

const WRITES = "textarea, select, input:not([type=radio]):not([type=checkbox])";

export function listen(on, isActive) {
  document.addEventListener("keydown", (event) => {
    if (!isActive()) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return act(event, on.forward);
    if (event.key === "Escape") return act(event, on.close);
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(WRITES)) return undefined;
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
    if (digit) return act(event, () => (event.shiftKey ? on.rate(Number(digit)) : on.place(Number(digit))));
    const key = event.key.toLowerCase();
    const card = key.charCodeAt(0) - 97;
    const flags = key === "f" && (event.shiftKey || card >= on.count());
    if (/^[a-i]$/.test(key) && !flags) return act(event, () => on.go(card));
    const command = {
      f: on.flags, s: on.skip, u: on.undo, "?": on.help, r: on.raw, n: on.instructions, t: on.fromRatings, v: on.overview,
    }[key];
    return command ? act(event, command) : undefined;
  });
}

function act(event, run) {
  event.preventDefault();
  run();
}
