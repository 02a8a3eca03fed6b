// What a labeler would see of a batch, on the same page: tasks are fetched, and nothing is sent or kept. Every request of the
// page comes through here (api.js) and is answered as the site would.

let last = 0; // number of the task that is shown

/** @param send what asks the server; only reading goes through. @returns the reply, or null: let the server answer */
export async function pretend(batch, method, path, send) {
  const place = `/api/admin/batches/${batch}`;
  if (path === "/api/next") {
    const reply = await send("GET", `${place}/demo?after=${last}`);
    last = reply.ok && reply.body.kind === "task" ? reply.body.assignment : 0; // after the last comes the first
    return reply;
  }
  if (path.endsWith("/instructions")) return send("GET", `${place}/instructions`);
  if (path.endsWith("/draft")) return answer({ saved: "demo: not kept", version: 0 });
  if (path.endsWith("/submit")) return answer({ saved: "none (a demo stores nothing)", revision: 1, extra: false });
  return method === "GET" ? send(method, path) : answer({});
}

const answer = (body) => ({ ok: true, status: 200, body });
