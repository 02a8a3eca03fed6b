// Drafts are kept twice: at once in this browser, and a moment later on the server. A draft the server has not confirmed
// wins over the server's when the page is loaded again.

import { call, newKey } from "./api.js";

const DELAY = 700; // milliseconds of rest before a draft is sent

export class Drafts {
  constructor(person, assignment, show) {
    this.name = `podium-draft/${person}/${assignment}`;
    this.path = `/api/assignments/${assignment}/draft`;
    this.show = show;
    this.timer = null;
    this.sending = null;
    this.closed = false;
  }

  /** The unconfirmed draft of this browser, or null. */
  local() {
    const kept = this.read();
    return kept && !kept.confirmed ? kept.body : null;
  }

  /** One key a task and try, kept over reloads, so a lost reply cannot make a second answer. */
  key() {
    const kept = this.read() || {};
    if (!kept.key) this.write({ ...kept, key: newKey() });
    return this.read()?.key || newKey();
  }

  keep(body) {
    this.write({ ...(this.read() || {}), body, confirmed: false });
    this.show("saving...");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(body), DELAY);
  }

  async send(body) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.closed) return;
    const sending = call("PUT", this.path, body);
    this.sending = sending;
    const reply = await sending;
    if (this.closed) return;
    if (!reply.ok) {
      this.show(`kept in this browser only: ${reply.message}`);
      if (reply.status === 0 || reply.status >= 500) this.timer = setTimeout(() => this.send(body), 5000);
      return;
    }
    const kept = this.read();
    if (kept && JSON.stringify(kept.body) === JSON.stringify(body)) this.write({ ...kept, confirmed: true });
    this.show(`draft saved (${reply.body.saved})`);
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
    try {
      localStorage.removeItem(this.name);
    } catch {
      // storage is off in this browser
    }
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.name));
    } catch {
      return null;
    }
  }

  write(value) {
    try {
      localStorage.setItem(this.name, JSON.stringify(value));
    } catch {
      // full or switched off: the server's copy remains
    }
  }
}
