// Requests to this site's API. Every failure becomes one object with a sentence; nothing is thrown past it.

const csrf = document.querySelector("[data-csrf]").dataset.csrf;

/** @returns {Promise<{ok: boolean, status: number, code: string, message: string, body: object}>} */
export async function call(method, path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, ...headers },
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
  return failure(response.status, content.code || "unknown", message);
}

function failure(status, code, message) {
  return { ok: false, status, code, message, body: {} };
}

/** 128 random bits; `crypto.randomUUID` exists only on HTTPS pages. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
