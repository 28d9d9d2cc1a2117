// Uploads: a form to send files, what arrives now, and what is stored. The list of stored files comes from the database,
// so it is read only when something has changed there, or by a button.

/** Stored files that are listed. */
const STORED_LISTED = 20;

/** The least time between two readings of the stored files that nobody has asked for. */
const READ_AGAIN_MS = 5000;

function buildUploads(figures) {
  const active = activeTable();
  const activeBox = element("div", { hidden: "" }, element("h3", {}, "Arriving now"), active.element);
  const list = buildStored();
  const sendings = buildSendings(() => list.want());

  const update = (uploads, status) => {
    const { in_progress, active_max, not_listed, stored } = uploads;
    const more = not_listed ? ` (${formatCount(not_listed)} not listed)` : "";
    const totals = stored.files ? `; ${formatCount(stored.files)} files stored, ${formatBytes(stored.bytes)}` : "";
    setText(figures, `${formatCount(in_progress)} of at most ${formatCount(active_max)} in progress${more}${totals}${scans(status.resources)}`);
    activeBox.hidden = uploads.active.length === 0;
    active.update(uploads.active.map((upload, index) => ({ ...upload, key: `${upload.began_at} ${index}` })));
    // Its rates are of now.
    sendings.draw();
    list.follow(status.server.started_at, stored);
  };
  return { content: [...sendings.content, activeBox, ...list.content], update };
}

/** What is to be said of the virus scanner, if the status lists all resources. */
function scans(resources) {
  const scanner = resources.resources?.find((resource) => resource.kind === "scanner");
  if (scanner) return `; virus scanner ${scanner.phase}`;
  return resources.not_listed === 0 ? "; no virus scanner" : "";
}

function activeTable() {
  return new Table({
    label: "Uploads that arrive now",
    key: (upload) => upload.key,
    columns: [
      textColumn("file", "File", (upload) => upload.file, { heads: true }),
      textColumn("from", "From", (upload) => upload.uploaded_by),
      {
        key: "progress", label: "Received",
        make: (cell) => cell.append(element("progress", { "aria-label": "Received" }), element("span", { class: "quiet" })),
        show: (cell, { received_bytes, announced_bytes }) => showBytes(cell, received_bytes, announced_bytes),
      },
      numberColumn("rate", "Rate", (upload) => upload.bytes_per_second, (rate) => `${formatBytes(rate)}/s`),
      textColumn("since", "Since", (upload) => formatClock(upload.began_at), { minor: true }),
    ],
  });
}

function buildStored() {
  const table = new Table({
    label: "Stored files",
    key: (upload) => upload.id,
    empty: "No file is stored.",
    columns: [
      {
        key: "name", label: "File", heads: true, value: (upload) => upload.name,
        make: (cell) => cell.append(element("a", { download: "" })),
        show: (cell, upload) => {
          setText(cell.firstChild, upload.name);
          setAttribute(cell.firstChild, "href", `/api/uploads/${encodeURIComponent(upload.id)}/content`);
        },
      },
      textColumn("kind", "Kind", (upload) => words(upload.kind)),
      numberColumn("bytes", "Size", (upload) => upload.bytes, formatBytes),
      textColumn("scanned", "Scanned", (upload) => upload.scanned ? "yes" : "no", { minor: true }),
      textColumn("from", "From", (upload) => upload.uploaded_by, { minor: true }),
      textColumn("at", "Stored", (upload) => formatTime(upload.created_at), { minor: true }),
      { key: "actions", label: "Actions", actions: true, make: makeDelete, show: showDelete },
    ],
  });
  const read = element("button", { type: "button" }, "List stored files");
  const note = element("span", { class: "quiet" });
  const list = element("div", { hidden: "" }, table.element);
  let isWanted = false;
  let isReading = false;
  let readAt = -Infinity;
  let run;
  let seen;

  const readNow = async () => {
    isReading = true;
    isWanted = false;
    try {
      const { uploads, next } = await send("GET", `/api/uploads?limit=${STORED_LISTED}`);
      table.update(uploads);
      list.hidden = false;
      setText(read, "Read again");
      setText(note, next ? `The newest ${STORED_LISTED}; GET /api/uploads has all.` : "");
    } catch (error) {
      setText(note, `The stored files cannot be listed: ${error.message}`);
    } finally {
      isReading = false;
      readAt = performance.now();
    }
  };
  onAction(read, async () => {
    await readNow();
    return note.textContent || "The stored files are listed";
  });
  const want = () => { isWanted = true; };
  /** Reads the list again where it has changed. To open the page alone must not start the database. */
  const follow = (startedAt, { files, bytes }) => {
    const now = `${files} ${bytes}`;
    const isNewRun = startedAt !== run;
    if (now !== seen && (files > 0 || !isNewRun)) want();
    run = startedAt;
    seen = now;
    if (isWanted && !isReading && performance.now() - readAt > READ_AGAIN_MS) readNow();
  };
  list.addEventListener("removed", want);
  const head = element("div", { class: "head" }, element("h3", {}, "Stored files"), read, note);
  return { content: [head, list], want, follow };
}

/** Asks once more: what is deleted is gone. */
function makeDelete(cell) {
  const button = element("button", { type: "button" });
  cell.append(button);
  button.addEventListener("blur", () => {
    cell.isSure = false;
    showDelete(cell, cell.upload);
  });
  onAction(button, async () => {
    const { id, name } = cell.upload;
    if (!cell.isSure) {
      cell.isSure = true;
      showDelete(cell, cell.upload);
      return `Press again to delete ${name}`;
    }
    await send("DELETE", `/api/uploads/${encodeURIComponent(id)}`);
    cell.dispatchEvent(new Event("removed", { bubbles: true }));
    return `${name} is deleted`;
  });
}

function showDelete(cell, upload) {
  cell.upload = upload;
  setButton(cell.firstChild, cell.isSure ? "Really delete" : "Delete", upload.name);
}
