// Chains: their heads, and their providers with scores and why each is used or not.

const CHAIN_TONES = { open: "good", closed: "quiet", no_answer: "bad" };

/** What the server says of a provider that an operator has taken out of use. */
const DRAINED = "it is drained";

function buildChains(figures) {
  const none = element("p", { class: "empty" }, "No chain is served: the settings name no provider of one.");
  const chains = chainsTable();
  const providers = providersTable();
  const providersBox = element("div", {}, element("h3", {}, "Providers of open chains"), providers.element);
  const tables = element("div", { hidden: "" }, chains.element, providersBox);
  const update = (all) => {
    const open = all.filter((chain) => chain.state === "open").length;
    setText(figures, all.length ? `${formatCount(open)} of ${formatCount(all.length)} open` : "none");
    none.hidden = all.length > 0;
    tables.hidden = all.length === 0;
    chains.update(all);
    const places = all.flatMap((chain) => (chain.status?.providers ?? []).map((place) => ({ ...place, chain: chain.name })));
    providersBox.hidden = places.length === 0;
    providers.update(places);
  };
  return { content: [none, tables], update };
}

const numberOrNone = (format) => (value) => value === undefined || value === null ? "–" : format(value);

function chainsTable() {
  const used = (chain) => chain.status?.providers.filter((place) => place.is_used).length;
  return new Table({
    label: "Chains",
    key: (chain) => chain.name,
    sort: { key: "name", order: "ascending" },
    columns: [
      textColumn("name", "Chain", (chain) => chain.name, { heads: true }),
      numberColumn("id", "Id", (chain) => chain.id, String, { minor: true }),
      markColumn("state", "State", (chain) => [CHAIN_TONES[chain.state], words(chain.state)]),
      numberColumn("head", "Head", (chain) => chain.status?.head, numberOrNone(formatCount)),
      numberColumn("finalized", "Final", (chain) => chain.status?.finalized, numberOrNone(formatCount), { minor: true }),
      numberColumn("age", "Head since", (chain) => chain.status?.head_age_seconds, numberOrNone(formatAge), { minor: true }),
      numberColumn("used", "Providers used", used, (count) => count === undefined ? "–" : formatCount(count)),
    ],
  });
}

function providersTable() {
  const share = numberOrNone((value) => formatShare(value, 1));
  return new Table({
    label: "Providers of open chains",
    key: (place) => `${place.chain} ${place.name}`,
    sort: { key: "chain", order: "ascending" },
    columns: [
      textColumn("chain", "Chain", (place) => place.chain),
      {
        key: "name", label: "Provider", heads: true, value: (place) => place.name,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, place) => {
          setText(cell.firstChild, place.name);
          setText(cell.lastChild, place.reason ? `${place.url}, ${place.reason}` : place.url);
        },
      },
      markColumn("used", "State", useOf),
      numberColumn("score", "Score", (place) => place.score, numberOrNone((score) => score.toFixed(2))),
      numberColumn("lag", "Behind", (place) => place.lag_blocks, numberOrNone(formatCount)),
      numberColumn("latency", "Time", (place) => place.latency_seconds, formatSeconds, { minor: true }),
      numberColumn("p95", "Time p95", (place) => place.latency_p95_seconds, formatSeconds, { extra: true }),
      numberColumn("errors", "Errors", (place) => place.error_rate, share, { minor: true }),
      numberColumn("throttled", "Throttled", (place) => place.throttle_rate, share, { minor: true }),
      numberColumn("in_flight", "Calls now", (place) => place.in_flight, formatCount, { extra: true }),
      { key: "actions", label: "Actions", actions: true, make: makeDrain, show: showDrain },
    ],
  });
}

/** Whether a provider is used, as a mark. */
function useOf({ is_used, reason }) {
  if (is_used) return ["good", "used"];
  return reason === DRAINED ? ["quiet", "drained"] : ["bad", "not used"];
}

function makeDrain(cell) {
  const button = element("button", { type: "button" });
  cell.append(button);
  onAction(button, async () => {
    const { chain, name, reason } = cell.place;
    const action = reason === DRAINED ? "resume" : "drain";
    await send("POST", `/api/chains/${encodeURIComponent(chain)}/providers/${encodeURIComponent(name)}/${action}`);
    return action === "drain" ? `${name} of ${chain} gets no new calls` : `${name} of ${chain} is back in use`;
  });
}

function showDrain(cell, place) {
  cell.place = place;
  setButton(cell.firstChild, place.reason === DRAINED ? "Resume" : "Drain", `${place.name} of ${place.chain}`);
}
