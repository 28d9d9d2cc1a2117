//! Starting processes that never outlive the test.
//!
//! `Drop` alone is not enough: a test that is killed by a signal or a time-out never runs it. So the
//! kernel is asked to kill each process when the thread that started it ends, however that happens.
//! Start processes from the test's own thread; that of a runtime or a helper may end before the test.
//!
//! A process inherits neither standard output nor standard error: one that outlived its test would
//! hold the pipe open, and whoever reads the results of the tests would wait for ever.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where tests and the load test make commands"
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

/// Becomes the program, its later arguments, if the process whose id is its first argument is still its
/// parent: a parent that ended before the kernel was asked for its death sends no signal.
const IF_PARENT_LIVES: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// A command whose process the kernel kills (SIGKILL) when the thread that starts it ends. Its standard
/// streams are `/dev/null` unless they are set. A program without a slash is looked for in `PATH`.
///
/// It keeps the death signal over `exec`, and whatever it starts itself does not inherit it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let mut command = if find(program).is_some() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "sh", "-c", IF_PARENT_LIVES]);
        command.arg(std::process::id().to_string()).arg(program);
        command
    } else {
        // Starting it says that it is missing, which a shell in between would not.
        Command::new(program)
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Where a program is.
fn find(program: &OsStr) -> Option<PathBuf> {
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
    /// Waits for its end. `None` when it has not ended `within` that time.
    ///
    /// # Errors
    /// When the system cannot wait for it.
    pub fn wait_within(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + within;
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
        // Either fails only when it has ended and was waited for.
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

/// Runs a process to its end, and kills it when it has not ended `within` that time.
///
/// # Errors
/// When the system cannot start it, or when it does not end in time.
pub fn output(command: &mut Command, within: Duration) -> io::Result<Output> {
    // Files rather than pipes: what it leaves behind may hold them open for as long as it likes.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    let status = start(command)?.wait_within(within)?.ok_or_else(|| {
        let text = format!("{command:?} has not ended after {within:?}");
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?;
    let (stdout, stderr) = (written(&mut stdout)?, written(&mut stderr)?);
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn written(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
