// The parts of the page, in their order. A further part is one more entry: `build(figures)` makes its content
// once and returns it with `update(section, status)`, which gets what the status has under `id`.

const ALERT_TONES = { warning: "warn", critical: "bad" };
const CHILD_TONES = { running: "good", starting: "warn", restarting: "bad", stopping: "warn", stopped: "quiet" };
const HEALTH_TONES = { cold: "quiet", healthy: "good", degraded: "warn", down: "bad" };
const JOB_TONES = { running: "warn", succeeded: "good", failed: "bad", cancelled: "quiet", timed_out: "bad" };

const PARTS = [
  { id: "alerts", title: "Alerts", build: buildAlerts },
  { id: "budget", title: "Memory budget", build: buildBudget },
  { id: "timeline", title: "Last 15 minutes", build: buildTimeline },
  { id: "resources", title: "Resources", build: buildResources },
  { id: "uploads", title: "Uploads", build: buildUploads },
  { id: "chains", title: "Chains", build: buildChains },
  { id: "supervision", title: "Supervision tree", build: buildSupervision, half: true },
  { id: "pools", title: "Connection pools", build: buildPools, half: true },
  { id: "jobs", title: "Jobs", build: buildJobs, half: true },
];

function buildAlerts(figures) {
  const list = element("ul", { class: "alerts" });
  const lines = new Keyed();
  const make = () => element("li", {}, element("span"), element("span", { class: "subject" }),
    element("span", { class: "text" }), element("span", { class: "since" }));
  const update = (alerts, status) => {
    const more = status.alerts_total - alerts.length;
    setText(figures, alerts.length ? `${status.alerts_total}${more ? `, ${more} not listed` : ""}` : "none");
    setChildren(list, lines.elements(alerts, (alert) => `${alert.code} ${alert.subject}`, make, (made, alert) => {
      const [severity, subject, text, since] = made.children;
      setMark(severity, ALERT_TONES[alert.severity], alert.severity);
      setText(subject, alert.subject);
      setText(text, alert.text);
      setText(since, alert.since_at ? `for ${formatAge(secondsBetween(alert.since_at, status.at))}` : "");
    }));
  };
  return { content: [list], update };
}

function buildSupervision(figures) {
  const table = new Table({
    label: "Supervision tree",
    key: (row) => row.path,
    sort: { key: "path", order: "ascending" },
    columns: [
      {
        key: "path", label: "Child", heads: true, value: (row) => row.path,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, row) => {
          const names = row.path.split("/");
          cell.style.paddingLeft = `${(names.length - 1) * 12}px`;
          setText(cell.firstChild, names.at(-1));
          setText(cell.lastChild, row.last_exit ? `last exit: ${row.last_exit}` : "");
        },
      },
      markColumn("state", "State", (row) => [CHILD_TONES[row.state], row.state]),
      numberColumn("since", "For", (row) => row.in_state_for_seconds, formatAge, { minor: true }),
      numberColumn("restarts", "Restarts", (row) => row.restarts_total, formatCount),
      numberColumn("mailbox", "Mailbox", (row) => row.mailbox_depth, (depth) => depth === undefined ? "–" : formatCount(depth), { minor: true }),
    ],
  });
  const update = (tree) => {
    const running = tree.children.filter((child) => child.state === "running").length;
    const more = tree.not_listed ? `, ${tree.not_listed} not listed` : "";
    setText(figures, `${running} of ${tree.children.length} run, ${formatCount(tree.restarts_total)} restarts${more}`);
    table.update(tree.children);
  };
  return { content: [table.element], update };
}

function buildPools(figures) {
  const state = (pool) => pool.state === "no_answer" ? ["bad", "no answer"] : [HEALTH_TONES[pool.health], pool.health];
  const count = (value) => value === undefined ? "–" : formatCount(value);
  const milliseconds = (value) => value === undefined ? "–" : formatMilliseconds(value);
  const table = new Table({
    label: "Connection pools",
    key: (row) => row.name,
    sort: { key: "name", order: "ascending" },
    columns: [
      {
        key: "name", label: "Pool", heads: true, value: (row) => row.name,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, row) => {
          setText(cell.firstChild, row.name);
          setText(cell.lastChild, poolNote(row));
        },
      },
      markColumn("health", "Health", state),
      numberColumn("size", "Open", (row) => row.size, count),
      numberColumn("in_use", "In use", (row) => row.in_use, count, { minor: true }),
      numberColumn("waiting", "Waiting", (row) => row.waiting, count),
      numberColumn("max", "Most", (row) => row.connections_max, count, { minor: true }),
      numberColumn("p99", "Wait p99", (row) => row.checkouts_total ? row.wait_p99_ms : undefined, milliseconds, { minor: true }),
    ],
  });
  const update = (pools) => {
    const open = pools.reduce((sum, pool) => sum + (pool.size ?? 0), 0);
    setText(figures, `${formatCount(open)} open`);
    table.update(pools);
  };
  return { content: [table.element], update };
}

/** What else is to be said of a pool. */
function poolNote(row) {
  const notes = [`${row.kind}, ${row.server}`];
  if (row.private_server) notes.push(`server ${row.private_server.state}`);
  if (row.retiring > 0) notes.push(`${formatCount(row.retiring)} closing`);
  if (row.circuit && row.circuit !== "closed") notes.push(`circuit ${words(row.circuit)}`);
  if (row.next_try_in_seconds !== undefined) notes.push(`next try in ${formatAge(row.next_try_in_seconds)}`);
  const isUnwell = row.health === "degraded" || row.health === "down";
  if (isUnwell && row.last_error) notes.push(row.last_error);
  if (row.reason) notes.push(row.reason);
  return notes.join(", ");
}

function buildJobs(figures) {
  let now;
  const took = (row) => secondsBetween(row.created_at, row.ended_at ?? now);
  const table = new Table({
    label: "Jobs",
    key: (row) => row.id,
    empty: "No job runs, and none has ended in the last hour.",
    columns: [
      {
        key: "kind", label: "Job", heads: true, value: (row) => row.kind,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, row) => {
          setText(cell.firstChild, row.kind);
          setText(cell.lastChild, row.error ? `${row.description}: ${row.error}` : row.description);
        },
      },
      markColumn("state", "State", (row) => [JOB_TONES[row.state], words(row.state)]),
      {
        key: "progress", label: "Progress",
        make: (cell) => cell.append(element("progress", { "aria-label": "Progress" }), element("span", { class: "quiet" })),
        show: (cell, row) => showProgress(cell, row),
      },
      numberColumn("took", "Took", took, formatSeconds, { minor: true }),
      { key: "actions", label: "Actions", actions: true, make: makeCancel, show: showCancel },
    ],
  });
  const update = (jobs, status) => {
    now = status.at;
    setText(figures, `${jobs.running} running${jobs.not_listed ? `, ${jobs.not_listed} not listed` : ""}`);
    table.update(jobs.jobs);
  };
  return { content: [table.element], update };
}

function showProgress(cell, row) {
  const [bar, text] = cell.children;
  const { done, total, current_step } = row.progress;
  if (total === null) bar.removeAttribute("value");
  else {
    bar.max = Math.max(1, total);
    bar.value = row.state === "succeeded" ? bar.max : done;
  }
  const step = current_step ? `: ${current_step}` : "";
  setText(text, ` ${formatCount(done)}${total === null ? "" : ` of ${formatCount(total)}`}${step}`);
}

function makeCancel(cell) {
  const button = element("button", { type: "button" });
  cell.append(button);
  onAction(button, () => cancel(cell.job));
}

function showCancel(cell, row) {
  const button = cell.firstChild;
  const hasEnded = row.state !== "running";
  cell.job = row.id;
  // The focus would be lost with the button.
  button.hidden = hasEnded && button !== document.activeElement;
  if (hasEnded) button.ariaDisabled = "true";
  setButton(button, "Cancel", row.description);
}
