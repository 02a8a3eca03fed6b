// Requests to this site's API. Every failure becomes one object with a sentence; nothing is thrown past it.

import { pretend } from "./demo.js";

const place = document.querySelector("[data-csrf]");

/** @returns {Promise<{ok: boolean, status: number, code: string, message: string, body: object}>} */
export async function call(method, path, body, headers = {}) {
  if (place.dataset.demo) return pretend(place.dataset.demo, method, path, send);
  const reply = await send(method, path, body, headers);
  // A login in another tab is a new session with a token of its own: fetch it, and try once more.
  if (reply.code === "csrf" && (await fetchToken())) return send(method, path, body, headers);
  return reply;
}

async function send(method, path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": place.dataset.csrf, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    return failure(0, "offline", "The server cannot be reached. Your draft is kept in this browser; try again.");
  }
  let content = {};
  try {
    content = await response.json();
  } catch {
    // a proxy's error page: the status says enough
  }
  if (response.ok) return { ok: true, status: response.status, body: content };
  const message = content.message || `The server answered ${response.status}. Your draft is kept; try again.`;
  return failure(response.status, content.code || "unknown", message, content);
}

/** Whether there is a new token of the same person; another's login must not send this one's work. */
async function fetchToken() {
  const reply = await send("GET", "/api/me");
  if (!reply.ok || reply.body.handle !== place.dataset.person) return false;
  place.dataset.csrf = reply.body.csrf_token;
  return true;
}

function failure(status, code, message, body = {}) {
  return { ok: false, status, code, message, body };
}

/** 128 random bits; `crypto.randomUUID` exists only on HTTPS pages. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
