// Usage, levels and events of the last 15 minutes as a chart, with the latest events in words.

/** What the chart shows, merged from all events of the server: the slots and the events by their numbers. */
const history = { slots: new Map(), events: new Map() };

const CHART = { height: 150, left: 66, right: 8, top: 8, levels: 108, bottom: 126 };

/** Heights of the strip below the chart, so that levels differ not only in their colour. */
const LEVEL_HEIGHTS = { elevated: 5, high: 9, critical: 13, exhausted: 16 };

/** Slots and events that are kept at most: as many as the server keeps, which has 200 events of each source. */
const KEPT_MAX = { slots: 200, events: 400 };

/** Events that are listed in words. */
const LISTED_MAX = 50;

function remember(timeline, at) {
  if (timeline.complete) {
    history.slots.clear();
    history.events.clear();
  }
  for (const slot of timeline.slots) history.slots.set(slot.number, slot);
  for (const event of timeline.events) history.events.set(`${event.source} ${event.number}`, event);
  const isOld = (item) => secondsBetween(item.at, at) > timeline.window_seconds + timeline.slot_seconds;
  for (const [kind, items] of Object.entries(history)) {
    // The oldest come first.
    for (const [number, item] of items) if (isOld(item) || items.size > KEPT_MAX[kind]) items.delete(number);
  }
}

function buildTimeline(figures) {
  const chart = svg("svg", { class: "chart", role: "img" });
  const log = element("ol", { class: "log", tabindex: "0", "aria-label": "Events of the last 15 minutes, the latest first" });
  const lines = new Keyed();
  const keys = element("ul", { class: "keys" },
    ...[["used", "usage, the highest of 5 s"], ["promised", "with every reservation used (dashed line)"],
      ["elevated", "elevated"], ["high", "high"], ["critical", "critical"], ["exhausted", "exhausted (strip below the chart; dotted: where levels begin)"]]
      .map(([key, text]) => element("li", {}, element("span", { class: `key ${key}` }), text)));
  let latest;
  const draw = () => { if (latest) drawChart(chart, latest); };
  new ResizeObserver(draw).observe(chart);

  const update = (timeline, status) => {
    remember(timeline, status.at);
    const slots = [...history.slots.values()];
    const events = [...history.events.values()].sort((a, b) => Date.parse(b.at) - Date.parse(a.at) || b.number - a.number);
    latest = { at: status.at, timeline, slots, events, bounds: status.budget.levels ?? [] };
    draw();
    const most = Math.max(0, ...slots.map((slot) => slot.used_max_bytes));
    const least = Math.min(...slots.map((slot) => slot.used_bytes));
    const range = slots.length ? `${formatBytes(least)} to ${formatBytes(most)}` : "no reading";
    setText(figures, `${range}, ${events.length} events`);
    setAttribute(chart, "aria-label", `Usage of the last 15 minutes: ${range}; ${events.length} events, listed below`);
    setChildren(log, lines.elements(events.slice(0, LISTED_MAX), (event) => `${event.source} ${event.number}`,
      (event) => element("li", {}, element("time", { datetime: event.at }, formatClock(event.at)), element("span", {}, event.text)),
      () => {}));
  };
  return { content: [chart, keys, log], update };
}

function drawChart(chart, { at, timeline, slots, events, bounds }) {
  const width = Math.max(200, chart.clientWidth);
  const now = Date.parse(at);
  const budget = Math.max(1, ...slots.map((slot) => slot.budget_bytes));
  const most = Math.max(budget, ...slots.map((slot) => slot.projected_max_bytes));
  const x = (time) => Math.max(CHART.left, width - CHART.right - (now - time) / 1000 / timeline.window_seconds * (width - CHART.left - CHART.right));
  const y = (bytes) => CHART.levels - 6 - bytes / most * (CHART.levels - 6 - CHART.top);
  const drawn = [];

  for (const bytes of [0, budget / 2, budget]) {
    drawn.push(svg("line", { class: "grid", x1: CHART.left, x2: width - CHART.right, y1: y(bytes), y2: y(bytes) }));
    drawn.push(svg("text", { x: CHART.left - 6, y: y(bytes) + 4, "text-anchor": "end" }, formatBytes(bytes)));
  }
  for (const bound of bounds) {
    drawn.push(svg("line", { class: "bound", x1: CHART.left, x2: width - CHART.right, y1: y(bound.from_bytes), y2: y(bound.from_bytes) }));
  }
  for (const minutes of [15, 10, 5, 0]) {
    const at = x(now - minutes * 60000);
    const anchor = minutes === 15 ? "start" : minutes === 0 ? "end" : "middle";
    drawn.push(svg("text", { x: at, y: CHART.height - 4, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
  }
  const slotTime = timeline.slot_seconds * 1000;
  for (const run of runs(slots)) {
    const points = (bytes) => run.flatMap((slot) => {
      const from = Date.parse(slot.at);
      return [[x(from), y(bytes(slot))], [x(Math.min(now, from + slotTime)), y(bytes(slot))]];
    });
    const used = points((slot) => slot.used_max_bytes);
    const floor = y(0);
    drawn.push(svg("path", { class: "usage", d: `M${used[0][0]},${floor}L${used.join("L")}L${used.at(-1)[0]},${floor}Z` }));
    drawn.push(svg("path", { class: "projected", d: `M${points((slot) => slot.projected_max_bytes).join("L")}` }));
  }
  for (const run of runs(slots, (last, slot) => last.level === slot.level)) {
    const height = LEVEL_HEIGHTS[run[0].level];
    if (!height) continue;
    const from = x(Date.parse(run[0].at));
    const to = x(Math.min(now, Date.parse(run.at(-1).at) + slotTime));
    drawn.push(svg("rect", { class: `level ${run[0].level}`, x: from, y: CHART.bottom - height, height, width: Math.max(1, to - from) }));
  }
  drawn.push(svg("line", { class: "grid", x1: CHART.left, x2: width - CHART.right, y1: CHART.bottom, y2: CHART.bottom }));
  for (const event of events) {
    const at = x(Date.parse(event.at));
    const mark = svg("path", { class: "event", d: `M${at - 3},${CHART.bottom + 6}h6l-3,-6Z` });
    mark.append(svg("title", {}, `${formatClock(event.at)} ${event.text}`));
    drawn.push(mark);
  }
  chart.setAttribute("viewBox", `0 0 ${width} ${CHART.height}`);
  chart.replaceChildren(...drawn);
}

/** The slots in runs without a gap, since nothing is drawn where memory was not read. A run ends where `joins` says. */
function runs(slots, joins = () => true) {
  const sorted = [...slots].sort((a, b) => a.number - b.number);
  const found = [];
  for (const slot of sorted) {
    const run = found.at(-1);
    const last = run?.at(-1);
    if (last && last.number + 1 === slot.number && joins(last, slot)) run.push(slot);
    else found.push([slot]);
  }
  return found;
}
