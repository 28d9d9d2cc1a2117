//! This process as the operating system sees it: name, exit, limits, process group, parent.

use std::{
    ffi::CString,
    io::{self, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    ptr,
};

use headroom_model_protocol::arena::ARENA_MAX;
use nix::libc::{_IOLBF, FILE, setvbuf};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::{Pid, dup2_stdin, setpgid},
};

/// Bytes of a core dump at most. Where the kernel pipes core dumps to a program, it ignores 0, and makes none for 1 (core(5)).
const CORE_MAX: u64 = 1;

/// Open descriptors of a host at most. It needs fewer than 30.
const DESCRIPTORS_MAX: u64 = 64;

/// This process's exit codes. The numbers are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// The other end asked for the exit, or closed the socket.
    Ok = 0,
    /// Unknown arguments.
    Usage = 64,
    /// The model file or its settings are refused.
    Refused = 65,
    /// The process itself failed; its state is unknown.
    Internal = 70,
    /// The other end broke the protocol.
    Protocol = 76,
}

/// Ends the process at once, without destructors: those of libtorch may wait for a thread that still computes, or
/// crash.
pub(crate) fn exit(code: ExitCode) -> ! {
    // SAFETY: `_exit` takes any number and touches none of this process's memory.
    unsafe { nix::libc::_exit(code as i32) }
}

/// Writes one line to standard error, which the server copies to its log. Errors are ignored: the reader may be gone
/// (`eprintln!` would panic).
pub(crate) fn log(line: &str) {
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}

unsafe extern "C" {
    /// The C library's standard output.
    static stdout: *mut FILE;
}

/// Has the C library write each line to standard output at once. What a model prints would otherwise stay in its buffer, and
/// be lost at the end of the process.
pub(crate) fn write_output_by_lines() {
    // SAFETY: the stream is open, nothing was written to it yet, and the C library allocates the buffer itself.
    unsafe { setvbuf(stdout, ptr::null_mut(), _IOLBF, 0) };
}

/// Writes one line to standard output.
pub(crate) fn print_line(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).ok();
}

/// Takes the socket from standard input and puts `/dev/null` there, so that no forked host holds the zygote's socket.
pub(crate) fn take_socket_from_stdin() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket)
}

/// Leaves the terminal's process group, so that Ctrl-C reaches only the server, which drains first. Also has the kernel
/// send SIGCONT when the parent dies: a stopped process then wakes, finds its socket closed, and exits.
///
/// The signal is not SIGKILL because the kernel sends it at the end of the *thread* that started this process. In a
/// server with a thread pool, that thread may end long before the server.
pub(crate) fn follow_parent() {
    leave_group();
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGCONT) {
        log(&format!("cannot watch the parent process: {error}"));
    }
}

/// Has the kernel kill this process when the thread that started it ends. Ends it if the other end of `socket`, the
/// server, is gone already.
pub(crate) fn end_with_server(socket: &UnixStream) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut other_end = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut other_end, PollTimeout::ZERO)?;
    let is_gone = |events: PollFlags| events.contains(PollFlags::POLLHUP);
    if other_end[0].revents().is_some_and(is_gone) {
        exit(ExitCode::Ok);
    }
    Ok(())
}

/// Becomes the leader of a process group of its own.
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

/// Has the kernel kill this process before the server when memory runs out. A failure is logged only.
pub(crate) fn raise_oom_score() {
    // Far above the server's own score.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "800") {
        log(&format!("cannot set oom_score_adj: {error}"));
    }
}

/// Fails where this process has more than one thread.
pub(crate) fn expect_one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    match threads {
        1 => Ok(()),
        _ => Err(io::Error::other(format!("the process has {threads}"))),
    }
}

/// Limits what this process may use of the system: no core dump, which would hold the data of requests, few descriptors,
/// and no file, which can only be an arena, larger than an arena may be. The limits cannot be raised again.
pub(crate) fn limit_resources() -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, CORE_MAX),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (Resource::RLIMIT_FSIZE, ARENA_MAX),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    // The process may have inherited a limit of 0, or set it. Then a core dump has no memory.
    match std::fs::write("/proc/self/coredump_filter", "0") {
        // This kernel makes none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// Limits this process's data to `bytes`: heap, private mappings and threads' stacks, used or not. The limit can be
/// raised again.
pub(crate) fn limit_data(bytes: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    Ok(setrlimit(Resource::RLIMIT_DATA, bytes.min(hard), hard)?)
}
