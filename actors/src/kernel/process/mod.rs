//! Processes of the operating system that an actor owns.
//!
//! Each process leads its own process group, so a kill also reaches the processes that it started.
//! It inherits only a short list of environment variables, so no secret of the server reaches it.
//! Its output goes to the log line by line, and its last lines are kept to explain an unexpected
//! end. It is always reaped.

mod adopted;
mod output;
mod process_ref;
mod spec;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::exit::ProcessExit;
use adopted::Started;
use output::Capture;

pub use adopted::{reap_adopted, reap_ended};
pub use output::log_lines;
pub use process_ref::ProcessRef;
pub use spec::{ProcessSpec, SpawnError, setpriv};

/// How long to wait for the end of a killed process. A process that hangs in a system call ends
/// only when that call returns.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the output of a process that has ended may stay open.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running process. Dropping it kills its whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Dropped after the child, which it keeps from being reaped elsewhere.
    _started: Started,
    /// Opened before the process can be reaped.
    process_ref: Arc<ProcessRef>,
    stop_signal: Signal,
    output: Capture,
    captures: Vec<JoinHandle<()>>,
    /// Another group may have the id of this one.
    reaped: bool,
    #[cfg(any(test, feature = "testing"))]
    _alive: super::testing::AliveProcess,
}

impl Process {
    /// Starts a process with `stdin` as its standard input. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system cannot start it.
    pub fn spawn(spec: &ProcessSpec, stdin: Stdio) -> io::Result<Self> {
        let mut command = spec.command();
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let (mut child, started) = Started::spawn(&mut command)?;
        let pid = started.pid();
        let process_ref = Arc::new(ProcessRef::open(pid)?);
        let adjustment = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        if let Err(error) = drop_oom_protection(&adjustment) {
            let process = &spec.name;
            tracing::warn!(process, pid, %error, "a process keeps the server's oom_score_adj");
        }
        let ready_line = spec.ready_line.clone();
        let output = Capture {
            name: spec.name.clone(),
            pid,
            last_lines: Arc::default(),
            ready_line: ready_line.map(|text| (text, Arc::new(Notify::new()))),
        };
        let mut captures = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            captures.push(actix_rt::spawn(output.clone().run(pipe)));
        }
        if let Some(pipe) = child.stderr.take() {
            captures.push(actix_rt::spawn(output.clone().run(pipe)));
        }
        Ok(Self {
            child,
            _started: started,
            process_ref,
            stop_signal: spec.stop_signal,
            output,
            captures,
            reaped: false,
            #[cfg(any(test, feature = "testing"))]
            _alive: super::testing::AliveProcess::count(),
        })
    }

    /// The process id, which is also the id of the process group.
    pub fn pid(&self) -> i32 {
        self.process_ref.pid()
    }

    /// A reference that can signal the process without owning it.
    pub fn process_ref(&self) -> &Arc<ProcessRef> {
        &self.process_ref
    }

    /// The last lines of its output, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.output.last_lines().iter().cloned().collect()
    }

    /// Waits until the process is ready: see [`ProcessSpec::ready_line`].
    ///
    /// # Errors
    /// How the process ended, when it ended first.
    pub async fn ready(&mut self) -> Result<(), ProcessExit> {
        if let Some((_, ready)) = self.output.ready_line.clone() {
            tokio::select! {
                biased;
                exit = self.ended() => return Err(exit),
                () = ready.notified() => self.output.ready_line = None,
            }
        }
        Ok(())
    }

    /// Runs a process to its end. Returns how it ended and the last lines of its output.
    ///
    /// # Errors
    /// The system cannot start it.
    pub async fn run(spec: &ProcessSpec, stdin: Stdio) -> io::Result<(ProcessExit, Vec<String>)> {
        let mut process = Self::spawn(spec, stdin)?;
        let exit = process.ended().await;
        Ok((exit, process.all_lines().await))
    }

    /// The last lines of a process that has ended, once its whole output is read.
    pub async fn all_lines(&mut self) -> Vec<String> {
        for capture in self.captures.drain(..) {
            // A process that it started may hold the output open.
            drop(timeout(OUTPUT_TIMEOUT, capture).await);
        }
        self.last_lines()
    }

    /// Waits for the end of the process, kills the rest of its group and reaps it.
    pub async fn ended(&mut self) -> ProcessExit {
        // The group is killed before the process is reaped: until then no other group can have
        // its id.
        let watched = self.process_ref.ended().await.is_ok();
        if watched {
            self.signal_group(Signal::SIGKILL);
        }
        let exit = match self.child.wait().await {
            Ok(status) => ProcessExit::from_status(status),
            Err(error) => {
                tracing::warn!(process = self.output.name, %error, "cannot wait for a process");
                ProcessExit::Unknown
            }
        };
        if !watched {
            self.signal_group(Signal::SIGKILL);
        }
        self.reaped = true;
        exit
    }

    /// Sends the stop signal, and kills the group when the process has not ended `within` that
    /// time.
    pub async fn stop(&mut self, within: Duration) -> ProcessExit {
        self.signal_group(self.stop_signal);
        match timeout(within, self.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::warn!(
                    process = self.output.name,
                    "a process did not stop in time and is killed"
                );
                self.kill().await
            }
        }
    }

    /// Kills the group and reaps the process. Gives up after 5 s: a process that hangs in a system
    /// call is reaped when it ends.
    pub async fn kill(&mut self) -> ProcessExit {
        self.signal_group(Signal::SIGKILL);
        let ended = timeout(KILL_TIMEOUT, self.ended()).await;
        ended.unwrap_or_else(|_| {
            tracing::error!(process = self.output.name, "a killed process does not end");
            ProcessExit::Unknown
        })
    }

    /// Signals the whole group, whose id is the process id until the process is reaped.
    fn signal_group(&self, signal: Signal) {
        if !self.reaped {
            // Fails only when the whole group is gone already.
            killpg(Pid::from_raw(self.pid()), signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // tokio reaps a process that is dropped before its end (`kill_on_drop`).
        self.signal_group(Signal::SIGKILL);
    }
}

/// Resets a negative `oom_score_adj` that a process has inherited from the server. Its own children
/// inherit the value in turn, so this must happen before the process is given work.
fn drop_oom_protection(adjustment: &Path) -> io::Result<()> {
    // Unreadable when the process has ended already.
    let value = std::fs::read_to_string(adjustment).ok();
    let value = value.and_then(|text| text.trim().parse::<i32>().ok());
    if value.is_some_and(|value| value < 0) {
        std::fs::write(adjustment, "0")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::spec::setpriv;
    use super::*;
    use headroom_test_support::capability::skip;

    #[test]
    fn an_inherited_negative_oom_score_adj_is_reset_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oom_score_adj");
        assert!(drop_oom_protection(&path).is_ok());
        for (before, after) in [("-500\n", "0"), ("0\n", "0\n"), ("700\n", "700\n")] {
            std::fs::write(&path, before).unwrap();
            drop_oom_protection(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    /// Processes end with their server however it ends. Here its thread ends without any clean-up.
    #[test]
    fn a_process_ends_with_its_server_as_the_user_that_it_runs_as() {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        if setpriv().is_none() {
            return skip("the setpriv of util-linux is missing");
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
