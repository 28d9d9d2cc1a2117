// The files that this page sends: those that were chosen or dropped, and those that an earlier page has not finished.

/** Files on their way at the same time. A browser has few connections for each server. */
const SENT_AT_ONCE = 2;

/** Files that are listed. */
const SENDINGS_MAX = 100;

const SENDING_TONES = {
  waiting: "quiet", sending: "good", retrying: "warn", paused: "quiet", unfinished: "warn", stored: "good", failed: "bad",
};

/** Whether files are on their way. */
let isSending = () => false;

/** Builds the form and the list. `stored` is called when a file is. */
function buildSendings(stored) {
  let sendings = [];
  let isDue = false;
  const isAny = (...states) => (sending) => states.includes(sending.state);
  const isOnItsWay = isAny("sending", "retrying");
  isSending = () => sendings.some(isAny("waiting", "sending", "retrying", "paused"));

  const input = element("input", { type: "file", id: "files", multiple: "" });
  const zone = element("div", { class: "drop" },
    element("label", { for: "files" }, "Send files: "), input, element("span", { class: "quiet" }, "or drop them here"));
  const table = sendingsTable();
  const box = element("div", { hidden: "" }, element("h3", {}, "Sent by this page"), table.element);

  const draw = () => {
    isDue = false;
    box.hidden = sendings.length === 0;
    table.update(sendings);
  };
  /** Shows it a little later: progress comes often. */
  const drawSoon = () => {
    if (!isDue) setTimeout(draw, 200);
    isDue = true;
  };
  const startNext = () => {
    // That its state changes starts the one after it.
    if (sendings.filter(isOnItsWay).length < SENT_AT_ONCE) sendings.find(isAny("waiting"))?.run();
  };
  /** The last state that was shown of each. */
  const shown = new WeakMap();
  const changed = (sending) => {
    drawSoon();
    if (shown.get(sending) === sending.state) return;
    shown.set(sending, sending.state);
    if (sending.state === "cancelled") sendings = sendings.filter((other) => other !== sending);
    if (sending.state === "failed") say(`${sending.name} is not stored: ${sending.detail}`);
    if (sending.state === "stored") {
      say(`${sending.name} is stored`);
      stored();
    }
    startNext();
  };
  const add = (files) => {
    for (const file of files) {
      const known = sendings.find((sending) => isSameFile(sending, file) && sending.state !== "stored");
      if (!known && sendings.length >= SENDINGS_MAX) sendings.splice(sendings.findIndex(isAny("stored")), 1);
      if (!known && sendings.length >= SENDINGS_MAX) {
        say(`At most ${SENDINGS_MAX} files at a time`);
        break;
      }
      if (!known) sendings.push(new Sending({ about: file, file, changed }));
      else if (isAny("unfinished", "failed", "paused")(known)) known.resume(file);
    }
    startNext();
    draw();
  };

  input.addEventListener("change", () => {
    add([...input.files]);
    // So that the same file can be chosen again.
    input.value = "";
  });
  onDrop(zone, add);
  sendings = readUnfinished().map((about) => new Sending({ about, url: about.url, changed }));
  draw();
  return { content: [zone, box], draw };
}

function sendingsTable() {
  return new Table({
    label: "Files that this page sends",
    key: (sending) => sending.number,
    columns: [
      {
        key: "name", label: "File", heads: true, value: (sending) => sending.name,
        make: (cell) => cell.append(element("span"), element("span", { class: "note" })),
        show: (cell, sending) => {
          setText(cell.firstChild, sending.name);
          setText(cell.lastChild, sending.state === "unfinished" ? "choose the file again to go on" : sending.detail);
        },
      },
      markColumn("state", "State", (sending) => [SENDING_TONES[sending.state], sending.state]),
      {
        key: "progress", label: "Progress",
        make: (cell) => cell.append(element("progress", { "aria-label": "Progress" }), element("span", { class: "quiet" })),
        show: (cell, { sent, size, state }) => showBytes(cell, state === "stored" ? size : sent, size),
      },
      numberColumn("rate", "Rate", (sending) => sending.rate, (rate) => rate === undefined ? "–" : `${formatBytes(rate)}/s`, { minor: true }),
      { key: "actions", label: "Actions", actions: true, make: makeSendingActions, show: showSendingActions },
    ],
  });
}

/** A bar and its figures, of bytes. Of how many is not always known. */
function showBytes(cell, done, whole) {
  const [bar, text] = cell.children;
  if (whole === null) bar.removeAttribute("value");
  else {
    bar.max = Math.max(1, whole);
    bar.value = whole === 0 ? 1 : done;
  }
  setText(text, ` ${formatBytes(done)}${whole === null ? "" : ` of ${formatBytes(whole)}`}`);
}

const CAN_GO_ON = { paused: "Resume", failed: "Try again" };
const CAN_PAUSE = ["waiting", "sending", "retrying"];

function makeSendingActions(cell) {
  const change = element("button", { type: "button" });
  const cancel = element("button", { type: "button" });
  cell.append(change, cancel);
  onAction(change, () => {
    const { sending } = cell;
    if (CAN_PAUSE.includes(sending.state)) {
      sending.pause();
      return `${sending.name} is paused`;
    }
    sending.resume();
    return `${sending.name} goes on`;
  });
  onAction(cancel, async () => {
    const { sending } = cell;
    const wasStored = sending.state === "stored";
    await sending.cancel();
    return wasStored ? `${sending.name} is not listed here any more; it stays stored` : `${sending.name} is cancelled`;
  });
}

function showSendingActions(cell, sending) {
  const [change, cancel] = cell.children;
  cell.sending = sending;
  const word = CAN_PAUSE.includes(sending.state) ? "Pause" : CAN_GO_ON[sending.state];
  // The focus would be lost with the button.
  change.hidden = !word && change !== document.activeElement;
  setAttribute(change, "aria-disabled", word ? undefined : "true");
  if (word) setButton(change, word, sending.name);
  setButton(cancel, sending.state === "stored" ? "Done" : "Cancel", sending.name);
}

/** Has `take` get the files that are dropped on `zone`. A file dropped beside it would replace the page. */
function onDrop(zone, take) {
  const mark = (isOver) => zone.classList.toggle("over", isOver);
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      const isOver = zone.contains(event.target);
      event.dataTransfer.dropEffect = isOver ? "copy" : "none";
      mark(isOver && name === "dragover");
      if (isOver && name === "drop") take([...event.dataTransfer.files]);
    });
  }
  zone.addEventListener("dragleave", () => mark(false));
}
