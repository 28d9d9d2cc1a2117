//! What this process is to the operating system: its name, its end, its limits, its place among other processes.

use std::{
    error::Error,
    ffi::CString,
    fmt::Write as _,
    io::{self, Write as _},
    os::{fd::AsFd, unix::net::UnixStream},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::{Pid, dup2_stdin, setpgid},
};

/// How this process ends by itself. The numbers are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Asked to stop, or the other side closed the socket.
    Ok = 0,
    /// Unknown arguments.
    Usage = 64,
    /// The model file or its settings are refused.
    Refused = 65,
    /// A bug of ours: the state is unknown.
    Internal = 70,
    /// The other side broke the protocol.
    Protocol = 76,
}

/// Ends the process at once, without destructors: those of libtorch may wait for, or crash under, a thread that still
/// computes.
pub(crate) fn exit(code: ExitCode) -> ! {
    // SAFETY: `_exit` takes any number and touches none of this process's memory.
    unsafe { nix::libc::_exit(code as i32) }
}

/// Writes one line to standard error, which the server turns into its log. A reader that is gone is no reason to
/// fail, so errors are ignored (`eprintln!` would panic).
pub(crate) fn log(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}

/// Writes one line to standard output.
pub(crate) fn print_line(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).ok();
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, ": {cause}").ok();
        source = cause.source();
    }
    text
}

/// Takes the socket that the server put on standard input, and leaves `/dev/null` there, so that no forked host ever
/// holds the zygote's socket.
pub(crate) fn take_socket_from_stdin() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket)
}

/// Leaves the terminal's process group, so that Ctrl-C reaches only the server, which drains first; and has itself
/// continued when its parent dies: a stopped process then wakes, finds its socket closed, and ends.
///
/// The signal is not SIGKILL because the kernel sends it at the end of the *thread* that started this process, which
/// in a server with a thread pool may long precede the end of the server.
pub(crate) fn follow_parent() {
    leave_group();
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGCONT) {
        log(&format!("cannot follow the parent process: {error}"));
    }
}

/// Becomes the leader of an own process group.
pub(crate) fn leave_group() {
    if let Err(error) = setpgid(Pid::from_raw(0), Pid::from_raw(0)) {
        log(&format!("cannot leave the process group: {error}"));
    }
}

/// Sets the name that `ps` and `top` show; the kernel keeps 15 bytes.
pub(crate) fn set_name(name: &str) {
    let name: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = CString::new(name) {
        prctl::set_name(&name).ok();
    }
}

/// Makes the kernel prefer this process when memory runs out. Failing is no reason not to serve.
pub(crate) fn set_oom_score_adj(value: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        log(&format!("cannot set oom_score_adj to {value}: {error}"));
    }
}

/// Has the kernel refuse this process more than `bytes` of data: heap, private mappings and threads' stacks, touched
/// or not. It may be raised again.
pub(crate) fn limit_data(bytes: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    Ok(setrlimit(Resource::RLIMIT_DATA, bytes.min(hard), hard)?)
}
