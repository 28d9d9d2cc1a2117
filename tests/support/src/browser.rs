//! Driving a real browser: Debian's Chromium without a window, over the protocol of its developer tools.
//!
//! Both ends of the protocol are pipes, so there is no port, no driver program and no version to match. When the pipes
//! close, the browser ends; and the kernel kills it with the test, as every process of [`crate::child`].

#![expect(clippy::expect_used, clippy::panic, reason = "how a test fails")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::wait::{DEADLINE, wait_for};

/// The program.
pub const CHROMIUM: &str = "chromium";

/// Becomes the browser, which reads commands from descriptor 3, writes to descriptor 4, and logs to a file.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >browser.log 2>&1"#;

/// How often it is started. Chromium sometimes crashes before it reads its first command, and nothing that a
/// test is about has happened by then.
const STARTS: u32 = 3;

/// As root there is no sandbox; and nothing is to be fetched from the network in the background.
const FLAGS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
];

/// How long the browser may take to end by itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Messages of the browser that wait until the next command. Further ones wait in the browser.
const WAITING_MAX: usize = 1024;

/// How long the answer to a command may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A browser with one page.
pub struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    errors: Vec<String>,
    folder: TempDir,
}

impl Browser {
    /// Starts a browser with an empty page.
    ///
    /// # Panics
    /// When it does not start, with the end of its log.
    pub fn start() -> Self {
        let mut log = String::new();
        for _ in 0..STARTS {
            let mut browser = Self::spawn();
            match browser.try_call("Target.createTarget", &json!({ "url": "about:blank" })) {
                Ok(page) => {
                    browser.attach(&page);
                    return browser;
                }
                Err(_) => log = browser.log(),
            }
        }
        panic!("the browser has not started {STARTS} times; the last log: {log}");
    }

    fn spawn() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = child::command("sh");
        command
            .args(["-c", WITH_PIPES, CHROMIUM])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.path().display()))
            // It also writes below the home folder.
            .env("HOME", folder.path())
            // Identifies it and its children (scripts/tests/run_remains.py).
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = child::start(&mut command).expect("the browser starts");
        let commands = process.stdin.take().expect("its input is a pipe");
        let answers = process.stdout.take().expect("its output is a pipe");
        let (sender, messages) = sync_channel(WAITING_MAX);
        std::thread::spawn(move || {
            // It ends with the browser, whose end of the pipe closes.
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("a message is JSON");
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self {
            process,
            commands,
            messages,
            last_id: 0,
            session: None,
            errors: Vec::new(),
            folder,
        }
    }

    /// What the browser has logged.
    fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("browser.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Sends the commands that follow to `page`, and has it report errors.
    fn attach(&mut self, page: &Value) {
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach);
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
    }

    /// Sends a command of the protocol, and returns its result.
    ///
    /// # Panics
    /// When it fails, or does not end in time.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        let answer = self.try_call(method, &parameters);
        answer.unwrap_or_else(|error| panic!("{method}: {error}; its log: {}", self.log()))
    }

    /// Sends a command of the protocol. Returns its result, or why the browser has not answered.
    fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Value, &'static str> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        if self.commands.write_all(&bytes).is_err() {
            return Err("the browser has ended");
        }
        let end = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => return Err("no answer from the browser"),
                Err(RecvTimeoutError::Disconnected) => return Err("the browser has ended"),
            };
            if message["id"] != id {
                self.note(&message);
                continue;
            }
            assert_eq!(message["error"], Value::Null, "{method}");
            return Ok(message["result"].clone());
        }
    }

    /// Keeps what the page reports as an error.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let error = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &parameters["exceptionDetails"],
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => parameters,
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                &parameters["entry"]
            }
            _ => return,
        };
        self.errors.push(error.to_string());
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(opened["errorText"], Value::Null, "{url}");
    }

    /// Runs a script in the page, and returns the value of its last expression, or of that promise.
    ///
    /// # Panics
    /// When the script throws.
    pub fn run(&mut self, script: &str) -> Value {
        let evaluate = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", evaluate);
        assert_eq!(result["exceptionDetails"], Value::Null, "{script}");
        result["result"]["value"].clone()
    }

    /// Waits until a script returns true.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn wait_until(&mut self, script: &str) {
        wait_for(DEADLINE, || match self.run(script) {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{script} is {other}")),
        });
    }

    /// Presses and releases a key, such as `Tab` or `Enter`.
    pub fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Has the user choose files for a field of the page: `field` is a script that returns it.
    pub fn choose_files(&mut self, field: &str, files: &[&Path]) {
        let found = self.call("Runtime.evaluate", json!({ "expression": field }));
        let object = &found["result"]["objectId"];
        let files = json!({ "files": files, "objectId": object });
        self.call("DOM.setFileInputFiles", files);
    }

    /// Drags files from outside to the middle of an element, and drops them there. Returns whether the element got them: a page
    /// that changes may move it away just before.
    pub fn drop_files(&mut self, element: &str, files: &[&Path]) -> bool {
        let place = self.run(&format!(
            "{{ const element = {element}; element.scrollIntoView({{ block: 'center' }}); globalThis.isDropped = false; \
             element.addEventListener('drop', () => {{ globalThis.isDropped = true; }}, {{ once: true, capture: true }}); \
             const box = element.getBoundingClientRect(); [box.x + box.width / 2, box.y + box.height / 2] }}"
        ));
        let data = json!({ "items": [], "files": files, "dragOperationsMask": 1 });
        for kind in ["dragEnter", "dragOver", "drop"] {
            let event = json!({ "type": kind, "x": place[0], "y": place[1], "data": data });
            self.call("Input.dispatchDragEvent", event);
        }
        self.run("globalThis.isDropped") == true
    }

    /// Bounds the bytes that pages send in a second, or lets them send as fast as they can.
    pub fn limit_sending(&mut self, bytes_per_second: Option<u64>) {
        let rate = bytes_per_second.map_or(json!(-1), |rate| json!(rate));
        let conditions = json!({
            "offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate,
        });
        self.call("Network.emulateNetworkConditions", conditions);
    }

    /// Sets the size of the screen, and whether the user prefers dark colours.
    pub fn set_screen(&mut self, width: u32, height: u32, dark: bool) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Runs a script in each page that is opened from now on, before the scripts of the page.
    pub fn before_pages(&mut self, script: &str) {
        let source = json!({ "source": script });
        self.call("Page.addScriptToEvaluateOnNewDocument", source);
    }

    /// Lets scripts of the test into pages that are opened from now on, whatever the pages' policies forbid.
    pub fn ignore_policies(&mut self) {
        self.call("Page.setBypassCSP", json!({ "enabled": true }));
    }

    /// Writes a picture of the screen as PNG.
    pub fn screenshot(&mut self, file: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let data = shot["data"].as_str().expect("a picture");
        let data = STANDARD.decode(data).expect("base64");
        std::fs::write(file, data).expect("the picture can be written");
    }

    /// What pages have reported as errors since the last call: uncaught exceptions, `console.error`, and what the
    /// browser itself complains about, such as a policy that was broken.
    pub fn take_errors(&mut self) -> Vec<String> {
        // Events that came before the answer of a command are known after it.
        self.run("0");
        std::mem::take(&mut self.errors)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes must not write into the folder while that is removed.
        let close = json!({ "id": 0, "method": "Browser.close" });
        let sent = self.commands.write_all(format!("{close}\0").as_bytes());
        if sent.is_ok() {
            self.process.wait_within(CLOSE_WITHIN).ok();
        }
    }
}
