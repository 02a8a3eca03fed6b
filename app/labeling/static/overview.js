// The researcher's overview: counts every five seconds, agreement when they have changed.

import { el } from "./dom.js";

const PERIOD = 5000;
let seen = "";

async function get(path) {
  const response = await fetch(path);
  return response.ok ? response.json() : null;
}

async function counts() {
  const rows = await get("/api/admin/progress");
  for (const row of rows ?? []) {
    const line = document.querySelector(`tr[data-batch="${row.id}"]`);
    for (const cell of line?.querySelectorAll("[data-field]") ?? []) cell.textContent = row[cell.dataset.field];
  }
  const state = JSON.stringify(rows?.map((row) => [row.done, row.extras]));
  if (rows && state !== seen) {
    seen = state;
    await agreement();
  }
}

async function agreement() {
  const reply = await get("/api/admin/agreement");
  if (!reply) return;
  const rows = reply.lines.filter((line) => line.startsWith("| ") || line.startsWith("|-"));
  const cells = (line) => line.slice(1, -1).split("|").map((cell) => cell.trim());
  const [head, , ...body] = rows.map(cells);
  const table = el("table", { tabindex: "0" },
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", {}, text)))),
    el("tbody", {}, ...body.map((row) => el("tr", {}, ...row.map((text) => el("td", {}, text))))));
  const notes = reply.lines.filter((line) => line && !line.startsWith("|")).map((line) => el("p", { class: "hint" }, line));
  document.getElementById("agreement").replaceChildren(table, ...notes);
}

counts();
setInterval(counts, PERIOD);
