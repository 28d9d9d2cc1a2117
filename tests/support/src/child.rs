//! Starting processes that never outlive the test.
//!
//! `Drop` alone is not enough: it does not run when a signal or a time-out kills the test. So each process gets a
//! parent-death signal: the kernel kills it when the thread that started it ends. Start processes from the test's own
//! thread. A thread of a runtime may end before the test.
//!
//! A process inherits neither standard output nor standard error. A process that outlived its test would hold the pipe
//! open, and the reader of the test results would wait for ever.

#![expect(
    clippy::disallowed_methods,
    reason = "the only place where tests and the load test make commands"
)]

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::wait::pause;

/// A shell script that becomes the program in its arguments if its parent still is the process with the id in `$0`. A
/// parent that ended before the death signal was requested causes no signal.
const EXEC_IF_PARENT_RUNS: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// A command whose process the kernel kills (SIGKILL) when the thread that starts it ends. Its standard streams are
/// `/dev/null` unless they are set. A program without a slash is looked up in `PATH`.
///
/// The death signal survives `exec`. The process's own children do not inherit it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let mut command = if find(program).is_some() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", EXEC_IF_PARENT_RUNS]);
        command.arg(std::process::id().to_string()).arg(program);
        command
    } else {
        // Starting it directly reports that it is missing; a shell in between would hide that.
        Command::new(program)
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The path of a program. One without a slash is looked up in `PATH`.
pub fn find(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = program.as_ref();
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.exists().then(|| path.to_owned());
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|it| it.is_file())
}

/// A running process, killed and waited for when dropped.
#[derive(Debug)]
pub struct Child(std::process::Child);

impl Child {
    /// Waits for its exit. `None` when it still runs at the `deadline`.
    ///
    /// # Errors
    /// When the system cannot wait for it.
    pub fn wait_within(&mut self, deadline: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + deadline;
        loop {
            match self.0.try_wait()? {
                None if Instant::now() < end => pause(),
                ended => return Ok(ended),
            }
        }
    }
}

impl Deref for Child {
    type Target = std::process::Child;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it has ended and was waited for.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a process.
///
/// # Errors
/// When the system cannot start it.
pub fn start(command: &mut Command) -> io::Result<Child> {
    command.spawn().map(Child)
}

/// Starts a process that adds its output to the file `log`.
///
/// # Errors
/// When the file cannot be opened, or the system cannot start the process.
pub fn start_with_log(command: &mut Command, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    start(command.stdout(log.try_clone()?).stderr(log))
}

/// Runs a process to its end. Kills it at the `deadline`.
///
/// # Errors
/// When the system cannot start it, or when it does not end in time.
pub fn output(command: &mut Command, deadline: Duration) -> io::Result<Output> {
    // Files and not pipes: a process that it leaves behind could hold a pipe open.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    let status = start(command)?.wait_within(deadline)?.ok_or_else(|| {
        // Without the environment, which may have a secret.
        let (program, arguments) = (command.get_program(), command.get_args());
        let words: Vec<_> = std::iter::once(program).chain(arguments).collect();
        let text = format!("{words:?} has not ended after {deadline:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?;
    let (stdout, stderr) = (content(&mut stdout)?, content(&mut stderr)?);
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_process_that_takes_too_long_is_named_without_its_environment() {
        let mut command = command("sleep");
        command.arg("600").env("PASSWORD", "hunter2");
        let error = output(&mut command, Duration::from_millis(50)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"sleep\", \"600\"] has not ended"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
