//! Starting the real binary, on free ports and in a folder of its own.
//!
//! [`Server::start`] returns when the server answers. Dropping a [`Server`] kills its whole process group and waits for
//! it. When the test fails, the server's log is printed.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "how a test fails, and its output"
)]

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Deserialize;
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::wait::{DEADLINE, wait_for, wait_until};

/// Longest time from the start of the process to its first answer, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Options {
    binary: PathBuf,
    launcher: Vec<String>,
    settings: String,
    environment: Vec<(String, String)>,
}

impl Options {
    /// The binary under test: `env!("CARGO_BIN_EXE_headroom")`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            launcher: Vec::new(),
            settings: String::new(),
            environment: Vec::new(),
        }
    }

    /// A program with its first arguments that becomes the server by `exec`. It receives the server's command line as
    /// its last arguments.
    #[must_use]
    pub fn launched_by(mut self, command: &[&str]) -> Self {
        self.launcher = command.iter().map(|&word| word.into()).collect();
        self
    }

    /// Adds lines of TOML to the settings of the test, with dotted keys: `models.dir = "…"`.
    #[must_use]
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.settings.push('\n');
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn command(&self) -> Command {
        let Some((program, arguments)) = self.launcher.split_first() else {
            return child::command(&self.binary);
        };
        let mut command = child::command(program);
        command.args(arguments).arg(&self.binary);
        command
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: TempDir,
    addresses: Addresses,
    client: reqwest::Client,
    has_ended: bool,
}

/// The content of the ready file.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    pid: u32,
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it ends or does not answer in time. The log is printed.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let mut server = Self::begin(options);
        server.addresses = server.wait_until_ready();
        server
    }

    /// Starts a server and does not wait for it: its addresses and its process id are not known.
    ///
    /// # Panics
    /// When its process cannot be started.
    #[track_caller]
    pub fn begin(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // When the tests run as root, private servers run as another user, who must pass through the folder.
        let passable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(folder.path(), passable).expect("the folder's mode can be set");
        let base = format!(
            "server.listen = '127.0.0.1:0'\nserver.admin_listen = '127.0.0.1:0'\n\
             server.drain_delay = '0s'\ndata.dir = '{0}/data'\nmodels.dir = '{0}/models'\n",
            folder.path().display(),
        );
        fs::create_dir(folder.path().join("models")).expect("a folder of models");
        // The settings of the test are a profile, which overrides the base.
        fs::write(folder.path().join("base.toml"), base).expect("settings are written");
        fs::write(folder.path().join("test.toml"), &options.settings)
            .expect("settings are written");
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut command = options.command();
        command
            .arg("serve")
            .arg("--config")
            .arg(folder.path().join("base.toml"))
            .args(["--profile", "test"])
            .arg("--ready-file")
            .arg(folder.path().join("ready.json"))
            .envs(options.environment)
            .current_dir(folder.path())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0);
        let child = child::start(&mut command).expect("the binary starts");
        Self {
            child,
            folder,
            addresses: Addresses {
                listen: ([127, 0, 0, 1], 0).into(),
                admin_listen: ([127, 0, 0, 1], 0).into(),
                pid: 0,
            },
            client: client(),
            has_ended: false,
        }
    }

    fn wait_until_ready(&mut self) -> Addresses {
        let path = self.ready_file();
        wait_for(START_DEADLINE, || {
            if let Some(status) = self.try_wait() {
                panic!("the server ended while starting: {status}");
            }
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            // The server renames it into place, so it is complete.
            Ok::<_, String>(serde_json::from_str(&text).expect("the ready file is JSON"))
        })
    }

    /// The URL of a path on the main listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.listen)
    }

    /// The URL of a path on the admin listener.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.admin_listen)
    }

    /// The address of the main listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses.listen
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> SocketAddr {
        self.addresses.admin_listen
    }

    /// The server's process id, from the ready file.
    pub fn pid(&self) -> u32 {
        self.addresses.pid
    }

    /// The HTTP client that all requests to this server share.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// `GET` on the main listener.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        answer(self.client.get(self.url(path))).await
    }

    /// `GET` on the admin listener.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn admin(&self, path: &str) -> reqwest::Response {
        answer(self.client.get(self.admin_url(path))).await
    }

    /// `POST` of JSON to the main listener.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn post(&self, path: &str, json: &serde_json::Value) -> reqwest::Response {
        answer(self.client.post(self.url(path)).json(json)).await
    }

    /// The metrics, as text.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn metrics(&self) -> String {
        self.admin("/metrics").await.text().await.expect("text")
    }

    /// Its working folder, with base.toml, test.toml, log, ready.json, data and models.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with the settings of the test. Write to it before a reload.
    pub fn settings_file(&self) -> PathBuf {
        self.folder.path().join("test.toml")
    }

    /// The ready file: it exists while the server answers.
    pub fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready.json")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log contains `text`, and returns the log.
    ///
    /// # Panics
    /// When the text does not appear in time.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        wait_for(DEADLINE, || {
            let log = self.log();
            log.contains(text)
                .then_some(log)
                .ok_or_else(|| format!("the log does not contain {text:?}"))
        })
    }

    /// Waits until the server accepts no connections any more.
    ///
    /// # Panics
    /// When it still does after the deadline.
    #[track_caller]
    pub fn wait_until_closed(&self) {
        wait_until(DEADLINE, "the server accepts no connections", || {
            TcpStream::connect(self.address()).is_err()
        });
    }

    /// Sends a signal to the server's process only.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, signal: Signal) {
        kill(self.process(), signal).expect("the server can be signalled");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not end in time. The log is printed.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for(DEADLINE, || self.try_wait().ok_or("still running"))
    }

    /// Its exit status, once it has ended. The rest of its process group is killed then.
    fn try_wait(&mut self) -> Option<ExitStatus> {
        if !self.has_ended && has_ended(self.process()) {
            self.kill_group();
        }
        self.has_ended
            .then(|| self.child.wait().expect("the child can be waited for"))
    }

    /// Kills the whole process group. Must be called before its leader is waited for: afterwards another group may have
    /// its id.
    fn kill_group(&mut self) {
        killpg(self.process(), Signal::SIGKILL).ok();
        self.child.wait().ok();
        self.has_ended = true;
    }

    fn process(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }
}

/// Whether a child process has ended. It can still be waited for afterwards.
fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let status = waitid(Id::Pid(child), flags).expect("the child can be waited for");
    status != WaitStatus::StillAlive
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client")
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Response {
    request.send().await.expect("the server answers")
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended {
            self.kill_group();
        }
        if std::thread::panicking() {
            println!("--- log of the server ---\n{}", self.log());
        }
    }
}
