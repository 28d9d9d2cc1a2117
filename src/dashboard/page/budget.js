// The memory budget as one bar, and who holds it.

const LEVEL_TONES = { normal: "good", elevated: "warn", high: "warn", critical: "bad", exhausted: "bad" };

/** Holders that have a piece of the bar of their own. */
const PIECES_MAX = 24;

function buildBudget(figures) {
  const level = element("span");
  const sums = element("span");
  figures.append(level, " ", sums);

  const bands = element("div");
  const pieces = element("div");
  const bar = element("div", { class: "bar", role: "img" }, bands, pieces);
  const keys = element("ul", { class: "keys" });
  const resources = new Table({
    label: "Who holds the budget, by resource",
    key: (row) => row.key,
    sort: { key: "used", order: "descending" },
    columns: [
      textColumn("holder", "Held by", (row) => row.name, { heads: true }),
      numberColumn("used", "In use", (row) => row.used, formatBytes),
      numberColumn("reserved", "Reserved", (row) => row.reserved, (bytes) => bytes === undefined ? "–" : formatBytes(bytes)),
      numberColumn("share", "Of the budget", (row) => row.share, (share) => formatShare(share, 1), { minor: true }),
    ],
  });
  const kinds = new Table({
    label: "Memory by kind of process",
    key: (row) => row.kind,
    sort: { key: "pss", order: "descending" },
    columns: [
      textColumn("kind", "Kind of process", (row) => row.kind, { heads: true }),
      numberColumn("processes", "Processes", (row) => row.processes, formatCount),
      numberColumn("pss", "Proportional", (row) => row.pss_bytes, formatBytes),
      numberColumn("anonymous", "Anonymous", (row) => row.anonymous_bytes, formatBytes, { minor: true }),
    ],
  });
  const bandElements = new Keyed();
  const pieceElements = new Keyed();
  const keyElements = new Keyed();

  const update = (budget) => {
    const whole = budget.budget_bytes;
    const percent = (bytes) => `${Math.min(100, 100 * bytes / Math.max(1, whole))}%`;
    const tone = LEVEL_TONES[budget.level];
    setMark(level, tone, `level ${budget.level}`);
    setText(sums, `for ${formatAge(budget.level_for_seconds)}, ${formatBytes(budget.used_bytes)} used of ` +
      `${formatBytes(whole)} (${formatShare(budget.used_bytes, whole)}), ` +
      `${formatBytes(budget.promised_bytes)} promised, ${formatBytes(budget.free_bytes)} free`);

    const bounds = budget.levels;
    const bandsNow = bounds.map((bound, index) => ({ ...bound, to: bounds[index + 1]?.from_bytes ?? whole }));
    setChildren(bands, bandElements.elements(bandsNow, (band) => band.level,
      (band) => element("div", { class: `band ${band.level}` }),
      (made, band) => place(made, percent(band.from_bytes), percent(band.to - band.from_bytes))));

    const entries = [...budget.entries].sort((a, b) => b.measured_bytes - a.measured_bytes);
    const rest = entries.slice(PIECES_MAX).reduce((sum, entry) => sum + entry.measured_bytes, 0);
    const held = [
      { key: "server", name: "server and the rest", bytes: budget.baseline_bytes, class: "held base" },
      ...entries.slice(0, PIECES_MAX).map((entry, index) =>
        ({ key: `entry ${entry.name}`, name: entry.name, bytes: entry.measured_bytes, class: index % 2 ? "held other" : "held" })),
      { key: "others", name: "others", bytes: rest, class: "held" },
      { key: "promised", name: "promised", bytes: budget.promised_bytes, class: "held promised" },
    ].filter((piece) => piece.bytes > 0);
    let from = 0;
    for (const piece of held) {
      piece.from = from;
      from += piece.bytes;
    }
    setChildren(pieces, pieceElements.elements(held, (piece) => piece.key, () => element("div"), (made, piece) => {
      setAttribute(made, "class", piece.class);
      setAttribute(made, "title", `${piece.name}: ${formatBytes(piece.bytes)}`);
      setText(made, piece.bytes / whole > 0.05 ? piece.name : "");
      place(made, percent(piece.from), percent(piece.bytes));
    }));
    setAttribute(bar, "aria-label", `${formatShare(budget.used_bytes, whole)} of the budget is used, ` +
      `${formatShare(budget.promised_bytes, whole)} is promised; the level is ${budget.level}`);

    const keysNow = [
      { key: "base", text: "server and the rest" },
      { key: "used", text: "resources" },
      { key: "promised", text: "promised: reserved, not used yet" },
      ...bounds.map((bound) => ({ key: bound.level, text: `${bound.level} from ${formatBytes(bound.from_bytes)} (${(100 * bound.from_ratio).toFixed(0)} %)` })),
    ];
    setChildren(keys, keyElements.elements(keysNow, (key) => key.key,
      (key) => element("li", {}, element("span", { class: `key ${key.key}` }), element("span")),
      (made, key) => setText(made.lastChild, key.text)));

    resources.update([
      { key: "server", name: "server and the rest", used: budget.baseline_bytes, share: budget.baseline_bytes / whole },
      ...budget.entries.map((entry, index) => ({
        key: `entry ${index} ${entry.name}`,
        name: entry.loading ? `${entry.name} (loading)` : entry.name,
        used: entry.measured_bytes,
        reserved: entry.reserved_bytes,
        share: Math.max(entry.measured_bytes, entry.reserved_bytes) / whole,
      })),
      ...budget.buffers.filter((account) => account.held_bytes > 0).map((account) => ({
        key: `buffers ${account.name}`,
        name: `buffers: ${words(account.name)}`,
        used: account.filled_bytes,
        reserved: account.held_bytes,
        share: account.held_bytes / whole,
      })),
    ]);
    kinds.update(budget.kinds);
  };
  const tables = element("div", { class: "pair" }, resources.element, kinds.element);
  return { content: [bar, keys, tables], update };
}

/** Puts a piece of the bar in its place. */
function place(piece, left, width) {
  piece.style.left = left;
  piece.style.width = width;
}
