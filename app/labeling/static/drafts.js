// Drafts are kept twice: at once in this browser, and a moment later on the server. A draft the server has not confirmed
// wins over the server's when the page is loaded again - unless another tab has written there since: then the labeler
// chooses, and nothing wins silently.

import { call, newKey } from "./api.js";

const demo = Boolean(document.querySelector("[data-demo]")?.dataset.demo); // nothing is kept, not even here
const DELAY = 700; // milliseconds of rest before a draft is sent

export class Drafts {
  /** `version`: the server's draft that this page shows (0 = none). `on`: {show, conflict}. `path`: where it is kept. */
  constructor(person, assignment, version, on, path = `/api/assignments/${assignment}/draft`) {
    this.name = `podium-draft/${person}/${assignment}`;
    this.path = path;
    this.on = on;
    this.writer = tab();
    this.version = version;
    this.timer = null;
    this.sending = null;
    this.closed = false;
    this.disputed = false;
  }

  /** The unconfirmed draft of this browser, or null. It goes on from the version that it was written after, so that the
   * server tells when another tab has written since. */
  local() {
    const kept = this.read();
    if (!kept || kept.confirmed) return null;
    this.version = kept.version ?? this.version;
    return kept.body;
  }

  /** One key a task and try, kept over reloads, so a lost reply cannot make a second answer. */
  key() {
    const kept = this.read() || {};
    if (!kept.key) this.write({ ...kept, key: newKey() });
    return this.read()?.key || newKey();
  }

  keep(body) {
    this.write({ ...(this.read() || {}), body, confirmed: false, writer: this.writer, version: this.version });
    if (this.disputed) return;
    this.on.show("saving...");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(body), DELAY);
  }

  async send(body) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.closed || this.disputed) return;
    const sending = call("PUT", this.path, body, { "Draft-Version": String(this.version), "Draft-Writer": this.writer });
    this.sending = sending;
    const reply = await sending;
    if (this.closed) return;
    if (reply.code === "draft_conflict") {
      this.disputed = true;
      this.on.show("not saved: another tab has written here");
      this.on.conflict(body);
      return;
    }
    if (!reply.ok) {
      this.on.show(`kept in this browser only: ${reply.message}`);
      if (reply.status === 0 || reply.status >= 500) this.timer = setTimeout(() => this.send(body), 5000);
      return;
    }
    this.version = reply.body.version;
    const kept = this.read();
    if (kept && JSON.stringify(kept.body) === JSON.stringify(body)) this.write({ ...kept, confirmed: true, version: this.version });
    this.on.show(`draft saved (${reply.body.saved})`);
  }

  /** The labeler has looked at the other tab's draft (`version`) and goes on with this one. */
  insist(version, body) {
    this.disputed = false;
    this.version = version;
    this.keep(body);
  }

  /** Stop sending; wait for what is on its way, so that a late draft does not follow the answer. */
  async hold() {
    clearTimeout(this.timer);
    await this.sending;
  }

  /** The answer is stored: nothing is left to keep. */
  forget() {
    this.closed = true;
    clearTimeout(this.timer);
    if (demo) return; // a real task may have this number
    try {
      localStorage.removeItem(this.name);
    } catch {
      // storage is off in this browser
    }
  }

  read() {
    if (demo) return null;
    try {
      return JSON.parse(localStorage.getItem(this.name));
    } catch {
      return null;
    }
  }

  write(value) {
    if (demo) return;
    try {
      localStorage.setItem(this.name, JSON.stringify(value));
    } catch {
      // full or switched off: the server's copy remains
    }
  }
}

/** A name of this tab, the same after a reload. A duplicated tab counts as the same one. */
function tab() {
  try {
    if (!sessionStorage.getItem("podium-tab")) sessionStorage.setItem("podium-tab", newKey());
    return sessionStorage.getItem("podium-tab");
  } catch {
    return newKey();
  }
}
