// Sends one file in parts by tus 1.0, and goes on after the network, the server or the page was away.

const TUS_PATH = "/api/uploads/tus";

/** Bytes of a request. A slice refers to the file, so the page holds none of its bytes. */
const SLICE_BYTES = 8 * 1024 * 1024;

/** A request without progress for this long is given up. */
const STALLED_AFTER_MS = 120000;

/** Pauses after failures in a row; the last one repeats. */
const TRY_AGAIN_MS = [500, 1000, 2000, 4000, 8000, 10000];

/** Answers of a server that may take the request later; 0 is none. */
const PASSING = [0, 408, 409, 423, 429, 500, 502, 503, 504];

/** Answers after which the upload is not there any more. */
const GONE = [404, 410, 413, 415, 422];

/** The rate is that of this time. */
const RATE_OF_MS = 5000;

/** A failure after which the same is tried again, `after` so many milliseconds if the server has said so. */
class Passing extends Error {
  constructor(message, after = 0) {
    super(message);
    this.after = after;
  }
}

/** A file on its way. `changed` is called whenever it is to be shown anew. */
class Sending {
  static #last = 0;
  #stop = new AbortController();
  #samples = [];
  #failures = 0;
  #changed;
  #url;

  /** `about` has the name, the size and the last change of the file; `file` is missing until it is chosen again. */
  constructor({ about, file, url, changed }) {
    this.number = Sending.#last += 1;
    this.name = about.name;
    this.size = about.size;
    this.lastModified = about.lastModified;
    this.file = file;
    this.state = file ? "waiting" : "unfinished";
    this.detail = "";
    this.sent = 0;
    this.#url = url;
    this.#changed = changed;
  }

  /** Bytes per second; nothing while none is known. */
  get rate() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    return this.state === "sending" && last?.at > first?.at ? 1000 * (last.sent - first.sent) / (last.at - first.at) : undefined;
  }

  /** Goes on until the file is stored or refused, or until it is paused. */
  async run() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#show("sending");
    while (!signal.aborted) {
      try {
        await this.#goOn(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Passing)) {
          this.#show("failed", error.message);
          return;
        }
        this.#show("retrying", error.message);
        const after = TRY_AGAIN_MS[Math.min(this.#failures, TRY_AGAIN_MS.length - 1)];
        this.#failures += 1;
        await pause(Math.max(after, error.after), signal);
      }
    }
  }

  /** Stops for now. */
  pause() {
    this.#stop.abort();
    this.#show("paused");
  }

  /** Waits for its turn, with the file that was chosen. */
  resume(file = this.file) {
    this.file = file;
    this.#failures = 0;
    this.#show("waiting");
  }

  /** Ends it, and has the server remove what has arrived. */
  async cancel() {
    this.#stop.abort();
    this.#show("cancelled");
    const url = this.#url;
    this.#forget();
    if (!url) return;
    const { signal } = new AbortController();
    // The server may still be at the end of the part that was stopped.
    for (const after of TRY_AGAIN_MS) {
      const answer = await exchange("DELETE", url, { signal });
      if (answer.status === 204 || GONE.includes(answer.status)) return;
      await pause(after, signal);
    }
    throw new Error("the server has not removed what had arrived; it does so when the upload expires");
  }

  async #goOn(signal) {
    let answer = await this.#find(signal) ?? await this.#create(signal);
    for (;;) {
      const offset = Number(answer.header("Upload-Offset") ?? NaN);
      if (!(offset >= 0 && offset <= this.size)) throw new Error("the server has not answered as tus says");
      this.#progress(offset);
      const upload = answer.header("Upload-Id");
      if (upload) {
        this.upload = upload;
        this.#forget();
        this.#show("stored");
        return;
      }
      this.#show("sending");
      answer = await this.#send(offset, signal);
      this.#failures = 0;
    }
  }

  /** How far it has come; nothing if it has to begin. */
  async #find(signal) {
    if (!this.#url) return undefined;
    const answer = await exchange("HEAD", this.#url, { signal });
    if (answer.status === 200) return answer;
    if (!GONE.includes(answer.status)) throw failure(answer);
    // This answer has no text; that to a part without bytes says why.
    const why = await this.#patch(0, undefined, signal);
    // What another page has begun may have expired since.
    const isOld = this.sent === 0 && [404, 410].includes(answer.status);
    this.#forget();
    if (!isOld) throw failure(why);
    return undefined;
  }

  async #create(signal) {
    const metadata = [`filename ${base64(this.name)}`];
    if (this.file.type) metadata.push(`filetype ${base64(this.file.type)}`);
    const headers = { "Upload-Length": this.size, "Upload-Metadata": metadata.join(",") };
    const answer = await exchange("POST", TUS_PATH, { headers, signal });
    if (answer.status !== 201) throw failure(answer);
    this.#url = answer.header("Location");
    keepUnfinished(this, this.#url);
    return answer;
  }

  async #send(offset, signal) {
    const slice = this.file.slice(offset, offset + SLICE_BYTES);
    const answer = await this.#patch(offset, slice, signal);
    if (answer.status === 204) return answer;
    // A file that was changed or removed looks like a network that fails.
    if (answer.status === 0) await this.#check(offset);
    if (GONE.includes(answer.status)) this.#forget();
    throw failure(answer);
  }

  #patch(offset, body, signal) {
    return exchange("PATCH", this.#url, {
      headers: { "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" },
      body,
      signal,
      onProgress: (bytes) => this.#progress(offset + bytes),
    });
  }

  async #check(offset) {
    try {
      await this.file.slice(offset, offset + 1).arrayBuffer();
    } catch {
      throw new Error("the file cannot be read; choose it again");
    }
  }

  #progress(sent) {
    const at = performance.now();
    // After a failure the server may have less than was sent.
    if (sent < this.sent) this.#samples = [];
    this.sent = sent;
    this.#samples.push({ at, sent });
    while (at - this.#samples[0].at > RATE_OF_MS) this.#samples.shift();
    this.#changed(this);
  }

  #forget() {
    this.#url = undefined;
    forgetUnfinished(this);
  }

  #show(state, detail = "") {
    if (state !== this.state) this.#samples = [];
    this.state = state;
    this.detail = detail;
    this.#changed(this);
  }
}

/** What an answer that is no success means. */
function failure(answer) {
  const text = answer.detail ?? (answer.status ? `the server answered ${answer.status}` : "the server does not answer");
  const after = Math.min(30, Number(answer.header("Retry-After")) || 0) * 1000;
  return PASSING.includes(answer.status) ? new Passing(text, after) : new Error(text);
}

/** Sends a request. An answer without a status means that there was none. Throws if `signal` stops it. */
function exchange(method, url, { headers = {}, body, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    let stalled;
    const watch = () => {
      clearTimeout(stalled);
      stalled = setTimeout(stop, STALLED_AFTER_MS);
    };
    request.open(method, url);
    request.setRequestHeader("Tus-Resumable", "1.0.0");
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      watch();
      if (!signal.aborted) onProgress?.(event.loaded);
    });
    request.addEventListener("loadend", () => {
      clearTimeout(stalled);
      signal.removeEventListener("abort", stop);
      if (signal.aborted) reject(signal.reason);
      else resolve({ status: request.status, detail: problemDetail(request), header: (name) => request.getResponseHeader(name) });
    });
    signal.addEventListener("abort", stop);
    watch();
    request.send(body);
  });
}

/** The reason that a problem document gives. */
function problemDetail(request) {
  if (!/json/.test(request.getResponseHeader("Content-Type") ?? "")) return undefined;
  try {
    return JSON.parse(request.responseText).detail;
  } catch {
    return undefined;
  }
}

/** Waits, unless `signal` ends that, or the network comes back. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      removeEventListener("online", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener("abort", end);
    addEventListener("online", end);
  });
}

/** The base64 form of a text's UTF-8. */
const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

const UNFINISHED_KEY = "headroom.unfinished-uploads";

/** Unfinished uploads that the browser remembers. */
const UNFINISHED_MAX = 50;

/** The uploads that were begun in this browser and not finished: what their files are, and where they go on. */
function readUnfinished() {
  try {
    const kept = JSON.parse(localStorage.getItem(UNFINISHED_KEY)) ?? [];
    return kept.filter(({ name, size, url }) => typeof name === "string" && size >= 0 && url.startsWith(`${TUS_PATH}/`));
  } catch {
    // What another program has written there, or no storage.
    return [];
  }
}

function writeUnfinished(kept) {
  try {
    localStorage.setItem(UNFINISHED_KEY, JSON.stringify(kept.slice(0, UNFINISHED_MAX)));
  } catch {
    // Without storage an upload goes on as long as the page is open.
  }
}

/** Whether both are the same file, as far as a page can know. */
const isSameFile = (a, b) => a.name === b.name && a.size === b.size && a.lastModified === b.lastModified;

function keepUnfinished(file, url) {
  const { name, size, lastModified } = file;
  writeUnfinished([{ name, size, lastModified, url }, ...readUnfinished().filter((other) => !isSameFile(other, file))]);
}

function forgetUnfinished(file) {
  writeUnfinished(readUnfinished().filter((other) => !isSameFile(other, file)));
}
