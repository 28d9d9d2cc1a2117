//! How to start a process: program, arguments, environment, user and signals.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tokio::process::Command;

/// The only variables that a process inherits from the server.
const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"];

/// How to start a process.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProcessSpec {
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    pub(super) ready_line: Option<String>,
    pub(super) stop_signal: Signal,
    user: Option<(u32, u32)>,
    server_end_signal: Option<Signal>,
}

impl ProcessSpec {
    /// A process called `name` in logs. Ready as soon as it runs, stopped by SIGTERM.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            ready_line: None,
            stop_signal: Signal::SIGTERM,
            user: None,
            server_end_signal: None,
        }
    }

    /// Adds an argument. The process list shows arguments: never pass a secret.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Sets the working directory.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The process is ready when a line of its output contains `text`.
    pub fn ready_line(mut self, text: impl Into<String>) -> Self {
        self.ready_line = Some(text.into());
        self
    }

    /// Sets the signal that asks the process to stop.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Sets the user and the group of the process, which gets no supplementary groups. Requires a
    /// server that runs as root.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Has the kernel send `signal` to the process when the thread that started it ends, for any
    /// reason. Needs `setpriv` of util-linux. Without it the process outlives a killed server.
    pub fn ends_with_server(mut self, signal: Signal) -> Self {
        self.server_end_signal = Some(signal);
        self
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the server makes commands"
    )]
    pub(super) fn command(&self) -> Command {
        // The kernel clears a parent death signal when a process changes its user. So `setpriv`
        // sets the signal after the change of user and before it executes the program.
        let wrapped = self.server_end_signal.and_then(|signal| {
            let mut command = Command::new(setpriv()?);
            command.arg("--pdeathsig").arg(signal.as_str()).arg("--");
            command.arg(&self.program);
            Some(command)
        });
        let mut command = wrapped.unwrap_or_else(|| Command::new(&self.program));
        let inherited = INHERITED.iter();
        command
            .args(&self.arguments)
            .env_clear()
            .envs(inherited.filter_map(|key| Some((key, std::env::var_os(key)?))))
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// The `setpriv` of util-linux. The one of busybox does not know `--pdeathsig`.
pub fn setpriv() -> Option<PathBuf> {
    ["/usr/bin/setpriv", "/bin/setpriv"]
        .into_iter()
        .filter_map(|path| Path::new(path).canonicalize().ok())
        .find(|path| path.file_name().is_some_and(|name| name == "setpriv"))
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}")]
pub struct SpawnError {
    /// The path of the program.
    pub program: String,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl SpawnError {
    /// `spec` could not be started, because of `source`.
    pub fn new(spec: &ProcessSpec, source: io::Error) -> Self {
        let program = spec.program.display().to_string();
        Self { program, source }
    }
}
