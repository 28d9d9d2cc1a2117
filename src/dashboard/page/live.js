// Builds the page, and keeps it at what the server says. The server sends the whole state in each event, so
// what was missed in between does not matter.

/** Without an event for this long, what is shown counts as old. */
const OLD_AFTER_MS = 3000;

/** Without an event for this long, the connection counts as dead and is made anew. */
const DEAD_AFTER_MS = 10000;

const VERDICT_TONES = { ok: "good", degraded: "warn", failing: "bad", unknown: "quiet" };

const verdict = document.getElementById("verdict");
const server = document.getElementById("server");
const age = document.getElementById("age");

const parts = PARTS.map(({ id, title, build, half }) => {
  const figures = element("span", { class: "figures" });
  const missing = element("span", { class: "missing" });
  const { content, update } = build(figures);
  const heading = element("h2", { id: `${id}-title` }, title);
  document.getElementById("parts").append(
    element("section", { id, class: half && "half", tabindex: "-1", "aria-labelledby": `${id}-title` },
      element("div", { class: "head" }, heading, figures, missing), ...content));
  return { id, missing, update };
});

function show(status) {
  showVerdict(status.verdict);
  const { version, pid, uptime_seconds } = status.server;
  setText(server, `version ${version}, process ${pid}, up ${formatAge(uptime_seconds)}`);
  document.getElementById("parts").hidden = false;
  for (const { id, missing, update } of parts) {
    const section = status[id];
    const isMissing = section.state === "no_answer";
    const seconds = section.age_seconds;
    setText(missing, !isMissing ? "" :
      `no answer (${section.reason}); ` + (seconds === undefined ? "nothing known" : `what is shown is ${formatAge(seconds)} old`));
    if (isMissing && seconds === undefined) continue;
    try {
      update(section, status);
    } catch (error) {
      setText(missing, `cannot be shown: ${error.message}`);
      console.error(error);
    }
  }
}

/** The pause after a try to find models that has failed. */
const FIND_AGAIN_MS = 5000;

/** The run of the server that knows the models on disk, when the next try is due, and whether the last one failed. */
const found = { by: undefined, nextAt: 0, failed: false };

/** Makes the models on disk known to the loader, which lists them from then on. Each run of the server has to. */
async function findModels(run) {
  if (found.by === run || performance.now() < found.nextAt) return;
  found.nextAt = Infinity;
  try {
    await send("POST", "/v2/repository/index", {});
    found.by = run;
    found.nextAt = 0;
    if (found.failed) say("The models are listed");
    found.failed = false;
  } catch (error) {
    found.nextAt = performance.now() + FIND_AGAIN_MS;
    // Again and again it would replace what came of an action, and what was dismissed.
    if (!found.failed) say(`The models cannot be listed: ${error.message}`);
    found.failed = true;
  }
}

const NOTHING_YET = "The server sends no status; the page goes on trying";

let version;
let source;
let openedAt;
let shownAt;
let isShortened;

/** What is known of the connection; and since when the page waits for it: its start, or when it was shown again. */
let connection = "connecting";
let connectingSince = performance.now();

function connect() {
  source?.close();
  openedAt = performance.now();
  source = new EventSource("/api/status/events");
  source.onmessage = (event) => {
    const status = JSON.parse(event.data);
    version ??= status.server.version;
    // Another version of the server has another page. Files on their way would have to be chosen again.
    if (version !== status.server.version && !isSending()) location.reload();
    show(status);
    isShortened = status.shortened;
    shownAt = performance.now();
    findModels(status.server.started_at);
    showAge();
  };
  source.onerror = showAge;
}

function showVerdict(word) {
  setMark(verdict, VERDICT_TONES[word], word);
  document.title = `${word === "ok" ? "" : `${word}: `}Headroom`;
}

/** Says how old the data is, and connects anew where the browser does not do so itself. */
function showAge() {
  if (document.hidden) return;
  const now = performance.now();
  const quiet = now - Math.max(openedAt, shownAt ?? 0);
  const isRefused = source.readyState === EventSource.CLOSED && now - openedAt > 2000;
  if (isRefused || quiet > DEAD_AFTER_MS) connect();
  const isLive = shownAt !== undefined && now - shownAt < OLD_AFTER_MS && source.readyState === EventSource.OPEN;
  const isAwaited = connection === "connecting" && now - connectingSince < OLD_AFTER_MS;
  const last = connection;
  connection = isLive ? "live" : isAwaited ? "connecting" : "lost";
  // The age changes each second, which nobody wants to hear; that the connection is lost is said once.
  if (connection === "lost" && last !== "lost") say(shownAt === undefined ? NOTHING_YET : "The connection is lost; what is shown is old");
  if (connection === "live" && last === "lost") say("The connection is there");
  // Nobody knows how a server is that does not answer.
  if (connection === "lost") showVerdict("unknown");
  setAttribute(age, "class", connection === "lost" ? "old" : connection === "live" ? "quiet" : undefined);
  const old = () => `what is shown is ${formatAge((now - shownAt) / 1000)} old`;
  if (isLive) setText(age, isShortened ? "live; memory is short, so lists are not complete" : "live");
  else {
    const word = connection === "lost" ? "connection lost" : "connecting";
    setText(age, shownAt === undefined ? "connecting" : `${word}; ${old()}`);
  }
}

// A browser has few connections for each server, and nobody sees a hidden page.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    return;
  }
  // The page has closed it itself, so it is not lost.
  if (connection === "live") connection = "connecting";
  connectingSince = performance.now();
  connect();
  showAge();
});

if (!document.hidden) connect();
setInterval(showAge, 1000);
