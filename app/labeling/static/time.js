// Seconds at work: the page is visible, and a key or a pointer moved not long ago.

const IDLE_SECONDS = 60; // without a key or a pointer for so long, nobody is at work

export function keepTime(isActive, count) {
  let lastActive = Date.now();
  for (const kind of ["keydown", "pointermove", "pointerdown", "scroll"]) {
    document.addEventListener(kind, () => { lastActive = Date.now(); }, { passive: true });
  }
  setInterval(() => {
    const atWork = document.visibilityState === "visible" && Date.now() - lastActive < 1000 * IDLE_SECONDS;
    if (atWork && isActive()) count();
  }, 1000);
}
