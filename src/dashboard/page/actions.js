// What operators can do: load, unload, pin and unpin resources, cancel jobs. Each action says what came of it.

/** No action waits longer than this for its answer. */
const ACTION_WITHIN_MS = 30000;

const said = document.getElementById("said");
const dismiss = document.getElementById("dismiss");
let focusedBefore;

/** Shows a sentence until it is dismissed or another one replaces it, and reads it to those who listen. */
function say(text) {
  setText(said, text);
  dismiss.hidden = false;
}

/** Takes the sentence away. The focus goes back to where it was before it came to the button. */
function unsay() {
  const hadFocus = dismiss === document.activeElement;
  setText(said, "");
  dismiss.hidden = true;
  const next = focusedBefore?.isConnected ? focusedBefore : document.getElementById("parts");
  if (hadFocus) next.focus({ preventScroll: true });
}

dismiss.addEventListener("click", unsay);
dismiss.addEventListener("focus", (event) => { focusedBefore = event.relatedTarget; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") unsay(); });

/** The JSON of an answer. An answer that is an error throws its detail. */
async function send(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body && { "content-type": "application/json" },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(ACTION_WITHIN_MS),
  });
  const isJson = /json/.test(response.headers.get("content-type") ?? "");
  const answer = isJson ? await response.json() : {};
  if (!response.ok) throw new Error(answer.detail ?? `the server answered ${response.status}`);
  return answer;
}

/** Makes a button run `action`, one at a time. The button stays where the focus can be. */
function onAction(button, action) {
  button.addEventListener("click", async () => {
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    try {
      say(await action());
    } catch (error) {
      say(`It failed: ${error.message}`);
    } finally {
      button.ariaDisabled = null;
    }
  });
}

async function load(name) {
  say(`Loading ${name}`);
  const job = await send("POST", "/api/performance/lazy-loader/preload?wait=20", { names: [name] });
  const resource = job.result?.resources.find((resource) => !resource.is_dependency);
  if (!resource) return job.state === "running" ? `${name} is still loading` : `${name}: ${job.error ?? job.state}`;
  const why = resource.problem?.detail ? `: ${resource.problem.detail}` : "";
  const took = resource.load_seconds === undefined ? "" : ` in ${formatSeconds(resource.load_seconds)}`;
  return `${name}: ${words(resource.outcome)}${took}${why}`;
}

async function unload(name) {
  const query = new URLSearchParams({ name });
  const report = await send("DELETE", `/api/performance/lazy-loader/cache?${query}`);
  const outcomes = report.resources.map((resource) => {
    const reason = resource.reason ? ` (${words(resource.reason)})` : "";
    return `${resource.name}: ${words(resource.outcome)}${reason}`;
  });
  return `${outcomes.join(", ")}; ${formatBytes(report.gained_bytes ?? 0)} gained`;
}

async function setPinned(name, pinned) {
  const path = `/api/performance/lazy-loader/pins/${encodeURIComponent(name)}`;
  await send(pinned ? "PUT" : "DELETE", path);
  return pinned ? `${name} is pinned` : `${name} is not pinned`;
}

async function cancel(id) {
  const job = await send("DELETE", `/api/jobs/${encodeURIComponent(id)}`);
  return job.state === "running" ? "The job was asked to end" : `The job had ended: ${words(job.state)}`;
}
