//! Operating system processes under supervision.
//!
//! Each process leads its own process group, so that a kill reaches whatever it started itself. It
//! gets a bare environment: secrets of the server never reach it by inheritance. Its output goes
//! to our log, line by line, and the last lines are kept to explain an unexpected end. It is
//! always reaped.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child as TokioChild, Command};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, ProcessExit};
use super::incarnation::{Launch, LaunchContext, Running};
use super::output::Capture;
use super::process_ref::ProcessRef;

pub use super::output::{LastLines, log_lines};

/// How often a probe is asked.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// How long a killed process may take to end before it is left to end by itself: one that is held
/// inside the system ends when that lets it go.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// How long the output of a process that has ended may stay open.
const OUTPUT_WITHIN: Duration = Duration::from_secs(1);

/// What every process inherits from us, and nothing else.
const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"];

/// When a process counts as ready.
#[derive(Clone)]
pub enum Readiness {
    /// As soon as it runs.
    Running,
    /// When a line of its output contains this text.
    Line(String),
    /// When this says so; it is asked every 50 ms.
    Probe(Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>),
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("Running"),
            Self::Line(text) => write!(f, "Line({text:?})"),
            Self::Probe(_) => f.write_str("Probe"),
        }
    }
}

/// How to start a process.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    readiness: Readiness,
    stop_signal: Signal,
    user: Option<(u32, u32)>,
    orphan_signal: Option<Signal>,
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
            readiness: Readiness::Running,
            stop_signal: Signal::SIGTERM,
            user: None,
            orphan_signal: None,
        }
    }

    /// Adds an argument. Arguments show in the process list: never a secret.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// The folder it starts in.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// When it counts as ready.
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// The signal that asks it to stop.
    #[must_use]
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// The user and the group to run as, without any other group. Takes a server that runs as root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Has the kernel send `signal` to it when the thread that starts it ends, however that happens.
    /// Needs the `setpriv` of util-linux; without it the process outlives a server that is killed.
    #[must_use]
    pub fn ends_with_server(mut self, signal: Signal) -> Self {
        self.orphan_signal = Some(signal);
        self
    }

    pub(super) fn readiness_rule(&self) -> &Readiness {
        &self.readiness
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the server makes commands"
    )]
    fn command(&self) -> Command {
        // The kernel forgets the request when a process changes its user, so it is made by whoever
        // comes after that change, and before the program.
        let wrapped = self.orphan_signal.and_then(|signal| {
            let mut command = Command::new(setpriv()?);
            command.arg("--pdeathsig").arg(signal.as_str()).arg("--");
            command.arg(&self.program);
            Some(command)
        });
        let mut command = wrapped.unwrap_or_else(|| Command::new(&self.program));
        command
            .args(&self.arguments)
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|key| Some((key, std::env::var_os(key)?))),
            )
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

/// The `setpriv` of util-linux. That of busybox does not know what is asked of it.
fn setpriv() -> Option<PathBuf> {
    let known = ["/usr/bin/setpriv", "/bin/setpriv"]
        .iter()
        .map(PathBuf::from);
    known
        .filter_map(|path| path.canonicalize().ok())
        .find(|path| path.file_name().is_some_and(|name| name == "setpriv"))
}

/// A running process that is ours. Dropping it kills its whole group.
#[derive(Debug)]
pub struct Process {
    name: String,
    group: Pid,
    child: TokioChild,
    /// Opened before it can have been reaped.
    itself: Arc<ProcessRef>,
    stop_signal: Signal,
    last_lines: LastLines,
    captures: Vec<JoinHandle<()>>,
    reaped: bool,
    #[cfg(any(test, feature = "testing"))]
    _alive: super::testing::AliveProcess,
}

impl Process {
    /// Starts a process with `stdin` as its standard input. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn spawn(spec: &ProcessSpec, stdin: Stdio) -> io::Result<Self> {
        Self::spawn_watched(spec, stdin).map(|(process, _)| process)
    }

    pub(super) fn spawn_watched(
        spec: &ProcessSpec,
        stdin: Stdio,
    ) -> io::Result<(Self, Arc<Notify>)> {
        let mut command = spec.command();
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return Err(io::Error::other("the process ended before it had an id"));
        };
        let itself = Arc::new(ProcessRef::open(pid)?);
        let adjustment = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        if let Err(error) = forgo_protection(&adjustment) {
            let process = &spec.name;
            tracing::warn!(process, pid, %error, "a process stays as protected as the server");
        }
        let last_lines = LastLines::default();
        let line_seen = Arc::new(Notify::new());
        let awaited = match &spec.readiness {
            Readiness::Line(text) => Some(text.clone()),
            _ => None,
        };
        let mut captures = Vec::new();
        if let Some(output) = child.stdout.take() {
            let capture = Capture::new(&spec.name, pid, &last_lines, awaited.as_ref(), &line_seen);
            captures.push(actix_rt::spawn(capture.run(output)));
        }
        if let Some(output) = child.stderr.take() {
            let capture = Capture::new(&spec.name, pid, &last_lines, awaited.as_ref(), &line_seen);
            captures.push(actix_rt::spawn(capture.run(output)));
        }
        let process = Self {
            name: spec.name.clone(),
            group: Pid::from_raw(pid),
            child,
            itself,
            stop_signal: spec.stop_signal,
            last_lines,
            captures,
            reaped: false,
            #[cfg(any(test, feature = "testing"))]
            _alive: super::testing::AliveProcess::count(),
        };
        Ok((process, line_seen))
    }

    /// Its process id, which is also the id of its group.
    pub fn pid(&self) -> i32 {
        self.group.as_raw()
    }

    /// The process itself, for whoever must be able to signal it without owning it.
    pub fn itself(&self) -> &Arc<ProcessRef> {
        &self.itself
    }

    /// The last lines it wrote.
    pub fn last_lines(&self) -> &LastLines {
        &self.last_lines
    }

    /// Runs a process to its end. Says how it ended, and the last lines of what it wrote.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub async fn run(spec: &ProcessSpec, stdin: Stdio) -> io::Result<(ProcessExit, Vec<String>)> {
        let mut process = Self::spawn(spec, stdin)?;
        let exit = process.ended().await;
        Ok((exit, process.all_lines().await))
    }

    /// The last lines of a process that has ended, once all that it wrote is read.
    pub async fn all_lines(&mut self) -> Vec<String> {
        for capture in self.captures.drain(..) {
            // What it started itself may hold its output open.
            drop(timeout(OUTPUT_WITHIN, capture).await);
        }
        self.last_lines.to_vec()
    }

    /// Waits for its end and reaps it.
    pub async fn ended(&mut self) -> ProcessExit {
        // Whatever it started itself goes with it. Before it is reaped: as long as it has not been,
        // nobody else can have the group's number.
        let watched = self.itself.ended().await.is_ok();
        if watched {
            self.signal_group(Signal::SIGKILL);
        }
        let exit = match self.child.wait().await {
            Ok(status) => ProcessExit::from_status(status),
            Err(error) => {
                tracing::warn!(process = self.name, %error, "cannot wait for a process");
                ProcessExit::Unknown
            }
        };
        if !watched {
            self.signal_group(Signal::SIGKILL);
        }
        self.reaped = true;
        exit
    }

    /// Asks it to stop, and kills its group when it has not ended `within` that time.
    pub async fn stop(&mut self, within: Duration) -> ProcessExit {
        self.signal_group(self.stop_signal);
        match timeout(within, self.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::warn!(process = self.name, "did not stop in time and is killed");
                self.kill().await
            }
        }
    }

    /// Kills its group and reaps it. A process that is held inside the system is waited for no
    /// longer than it takes others to end.
    pub async fn kill(&mut self) -> ProcessExit {
        self.signal_group(Signal::SIGKILL);
        let ended = timeout(KILLED_WITHIN, self.ended()).await;
        ended.unwrap_or_else(|_| {
            tracing::error!(process = self.name, "was killed and does not end");
            ProcessExit::Unknown
        })
    }

    /// Signals the process and all that it started. Its number is the group's until it is reaped.
    fn signal_group(&self, signal: Signal) {
        if !self.reaped {
            // Fails only when the whole group is gone already.
            killpg(self.group, signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // tokio reaps what is dropped unreaped (`kill_on_drop`).
        self.signal_group(Signal::SIGKILL);
    }
}

/// Takes back what a process has inherited of the server's own protection from the kernel's choice
/// when memory runs out. What it starts itself inherits the value in turn, so this is done before
/// anybody talks to it.
fn forgo_protection(adjustment: &Path) -> io::Result<()> {
    // Unreadable when the process has ended already.
    let value = std::fs::read_to_string(adjustment).ok();
    let value = value.and_then(|text| text.trim().parse::<i32>().ok());
    if value.is_some_and(|value| value < 0) {
        std::fs::write(adjustment, "0")?;
    }
    Ok(())
}

/// Launches a process as a child of a supervisor.
pub(super) struct ProcessLauncher {
    spec: ProcessSpec,
}

impl ProcessLauncher {
    pub(super) fn new(spec: ProcessSpec) -> Self {
        Self { spec }
    }
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}")]
pub struct SpawnError {
    /// What was to be started.
    pub program: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl SpawnError {
    /// That `spec` could not be started, because of `source`.
    pub fn new(spec: &ProcessSpec, source: io::Error) -> Self {
        let program = spec.program.display().to_string();
        Self { program, source }
    }
}

impl Launch for ProcessLauncher {
    fn launch(&self, _: LaunchContext) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let spec = self.spec.clone();
        let (stopping, killed) = (stop.clone(), kill.clone());
        actix_rt::spawn(async move {
            let exit = match Process::spawn_watched(&spec, Stdio::null()) {
                Ok((process, line_seen)) => {
                    let ready = async move {
                        ready_when(&spec.readiness, &line_seen).await;
                        ready_sender.send(()).ok();
                    };
                    supervise(process, ready, stopping, killed).await
                }
                Err(source) => {
                    drop(ready_sender);
                    Exit::error(SpawnError::new(&spec, source))
                }
            };
            exit_sender.send(exit).ok();
        });
        Running {
            ready,
            open: Box::new(|| {}),
            cut_off: Box::new(|| {}),
            exited,
            stop,
            kill,
            beat: None,
        }
    }
}

/// Sees a process through to its end, which is also its reaping. The deadline of a stop is kept by
/// whoever asked for it: past it comes the kill.
async fn supervise(
    mut process: Process,
    ready: impl Future<Output = ()>,
    stop: CancellationToken,
    kill: CancellationToken,
) -> Exit {
    let mut ready = pin!(ready.fuse());
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            () = kill.cancelled() => {
                process.kill().await;
                return Exit::Killed;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                process.signal_group(process.stop_signal);
            }
            exit = process.ended() => {
                return if stopping { Exit::Shutdown } else { Exit::Process(exit) };
            }
            () = &mut ready => {}
        }
    }
}

pub(super) async fn ready_when(readiness: &Readiness, line_seen: &Notify) {
    match readiness {
        Readiness::Running => {}
        Readiness::Line(_) => line_seen.notified().await,
        Readiness::Probe(probe) => {
            while !probe().await {
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headroom_test_support::capability::skip;

    #[test]
    fn inherited_protection_is_taken_back_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oom_score_adj");
        assert!(forgo_protection(&path).is_ok());
        for (before, after) in [("-500\n", "0"), ("0\n", "0\n"), ("700\n", "700\n")] {
            std::fs::write(&path, before).unwrap();
            forgo_protection(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    /// Whatever ends a server takes its processes along: here it is the end of its thread, without
    /// a chance to say anything.
    #[test]
    fn a_process_ends_with_its_server_as_the_user_that_it_runs_as() {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        if setpriv().is_none() {
            return skip("it is not promised without the setpriv of util-linux");
        }
        let is_root = nix::unistd::Uid::effective().is_root();
        let server = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let mut spec = ProcessSpec::new("sleep", "/bin/sleep")
                    .argument("100")
                    .directory("/")
                    .ends_with_server(Signal::SIGINT);
                if is_root {
                    spec = spec.user(65534, 65534);
                }
                let process = Process::spawn(&spec, Stdio::null()).unwrap();
                let pid = process.pid();
                let comm = format!("/proc/{pid}/comm");
                while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                if is_root {
                    assert!(
                        status.contains("Uid:\t65534\t65534\t65534\t65534"),
                        "{status}"
                    );
                    assert!(
                        status.contains("Gid:\t65534\t65534\t65534\t65534"),
                        "{status}"
                    );
                    assert!(status.contains("Groups:\t \n"), "{status}");
                }
                std::mem::forget(process);
                pid
            })
        });
        let pid = Pid::from_raw(server.join().unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => std::thread::yield_now(),
                ended => {
                    assert_eq!(ended, WaitStatus::Signaled(pid, Signal::SIGINT, false));
                    break;
                }
            }
            assert!(
                std::time::Instant::now() < deadline,
                "it outlives its server"
            );
        }
    }
}
