// What the loader has loaded and can load, with what an operator can do about it.

const PHASE_TONES = { cold: "quiet", loading: "warn", ready: "good", draining: "warn", failed: "bad" };

/** Phases in which a resource is in memory or on its way. */
const ACTIVE = ["loading", "ready", "draining"];

function buildResources(figures) {
  const filter = element("input", { type: "search", id: "filter", autocomplete: "off", spellcheck: "false" });
  const left = element("p", { class: "quiet" });
  const heldBytes = (row) => ACTIVE.includes(row.phase) ? Math.max(row.measured_bytes, row.reserved_bytes) : undefined;
  const orNothing = (format) => (value) => value === undefined ? "–" : format(value);
  const table = new Table({
    label: "Resources",
    key: (row) => row.name,
    sort: { key: "name", order: "ascending" },
    empty: "No resource. Put a model into the models folder; the first request for it makes it known.",
    columns: [
      {
        key: "name", label: "Resource", heads: true, value: (row) => row.name,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, row) => {
          setText(cell.firstChild, row.name);
          setText(cell.lastChild, resourceNote(row));
        },
      },
      markColumn("phase", "Phase", (row) => [PHASE_TONES[row.phase], row.phase]),
      numberColumn("bytes", "Memory", heldBytes, orNothing(formatBytes)),
      numberColumn("estimate", "Next load", (row) => row.estimated_bytes, formatBytes, { minor: true }),
      numberColumn("leases", "Leases", (row) => row.leases, formatCount, { extra: true }),
      numberColumn("hits", "Hits", (row) => row.hits_total, formatCount, { minor: true }),
      numberColumn("misses", "Misses", (row) => row.misses_total, formatCount, { minor: true }),
      numberColumn("requests", "Requests", (row) => row.requests_total, formatCount, { minor: true }),
      numberColumn("p50", "p50", (row) => row.request_p50_ms, orNothing(formatMilliseconds), { minor: true }),
      numberColumn("p99", "p99", (row) => row.request_p99_ms, orNothing(formatMilliseconds), { minor: true }),
      numberColumn("load_p50", "Load p50", (row) => row.load_p50_seconds, formatSeconds, { minor: true }),
      numberColumn("load_p99", "Load p99", (row) => row.load_p99_seconds, formatSeconds, { extra: true }),
      numberColumn("ttl", "TTL left", (row) => row.ttl_left_seconds, orNothing(formatAge), { minor: true }),
      numberColumn("rank", "Eviction", (row) => row.eviction_rank, orNothing((rank) => `${rank}.`), { minor: true }),
      { key: "actions", label: "Actions", actions: true, make: makeActions, show: showActions },
    ],
  });
  let rows = [];
  const show = () => {
    const wanted = filter.value.trim().toLowerCase();
    table.update(rows.filter((row) => row.name.toLowerCase().includes(wanted)));
  };
  filter.addEventListener("input", show);

  const update = (resources) => {
    const phases = Object.keys(PHASE_TONES).map((phase) => `${resources.phases[phase]} ${phase}`);
    const rate = resources.hit_rate.last_5_minutes;
    const hits = rate === null ? "no use in 5 min" : `${formatShare(rate, 1)} hits in 5 min`;
    setText(figures, `${phases.join(", ")}; ${hits}; evicted by ${resources.policy}`);
    setText(left, resources.not_listed === 0 ? "" :
      `${formatCount(resources.not_listed)} more are not listed; GET /api/performance/lazy-loader/status has all`);
    rows = resources.resources;
    show();
  };
  const search = element("p", {}, element("label", { for: "filter" }, "Name contains "), filter);
  return { content: [search, table.element, left], update };
}

/** What else is to be said of a resource. */
function resourceNote(row) {
  const notes = [];
  if (row.kind !== "model") notes.push(row.kind);
  if (row.pinned) notes.push("pinned");
  if (row.suspect) notes.push("leaks or has outgrown its load");
  if (row.never_fits) notes.push("larger than the budget");
  if (row.waiters > 0) notes.push(`${row.waiters} waiting`);
  if (row.phase === "failed") {
    const next = row.next_try_in_seconds > 0 ? `next try in ${formatAge(row.next_try_in_seconds)}` : "the next request tries again";
    notes.push(`see the alerts; ${next}`);
  }
  return notes.join(", ");
}

function makeActions(cell) {
  const change = element("button", { type: "button" });
  const pin = element("button", { type: "button" });
  cell.append(change, pin);
  onAction(change, () => cell.isActive ? unload(cell.name) : load(cell.name));
  onAction(pin, () => setPinned(cell.name, !cell.isPinned));
}

function showActions(cell, row) {
  const [change, pin] = cell.children;
  cell.name = row.name;
  cell.isActive = ACTIVE.includes(row.phase);
  cell.isPinned = row.pinned;
  setButton(change, cell.isActive ? "Unload" : "Load", row.name);
  setButton(pin, row.pinned ? "Unpin" : "Pin", row.name);
}

function setButton(button, word, name) {
  setText(button, word);
  setAttribute(button, "aria-label", `${word} ${name}`);
}
