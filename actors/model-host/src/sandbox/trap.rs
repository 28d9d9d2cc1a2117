//! The signal handler for system calls that the filter does not let through.
//!
//! The kernel sends SIGSYS in the place of the call; what the handler writes into the registers is the call's result.
//! Opens of files come here too. Where Landlock holds, the handler repeats an open to read with a mark that the filter
//! knows, so that Landlock decides, and records it if that denies it. Where it does not, the filter lets no open through,
//! and the handler gives a copy of the descriptor of a file that was opened before. All else gets an error. The handler
//! only explains: it grants nothing that the process could not do without it.
//!
//! The kernel ends a process that blocks the signal, as `posix_spawn` does, at its first denied call.

use std::{
    ffi::{c_char, c_int, c_void},
    fs::File,
    io,
    os::fd::{AsRawFd, IntoRawFd},
    sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed},
};

use headroom_model_protocol::DeniedAction;
use nix::{
    errno::Errno,
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::denials::{Line, record};

/// The last argument of an open that the handler makes. The call itself does not have this argument.
pub(super) const REPEATED: u64 = 0x6865_6164_726f_6f6d;

/// The `si_code` of a signal that a seccomp filter sent.
const SYS_SECCOMP: c_int = 1;

/// The flags of an open that changes a file, or may change it later.
pub(super) const WRITES: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;

/// The descriptor of the model's file; -1 before the confinement.
static MODEL: AtomicI32 = AtomicI32::new(-1);

/// This process's environment. libtorch's MKL looks for its own variables there.
static ENVIRONMENT: OpenFile = OpenFile::new("/proc/self/environ");

/// What libtorch reads while it works, file by file, for a kernel without Landlock.
static READABLE: [OpenFile; 7] = [
    OpenFile::new("/proc/cpuinfo"),
    OpenFile::new("/sys/devices/system/cpu/kernel_max"),
    OpenFile::new("/sys/devices/system/cpu/online"),
    OpenFile::new("/sys/devices/system/cpu/possible"),
    OpenFile::new("/sys/devices/system/cpu/present"),
    OpenFile::new("/dev/urandom"),
    OpenFile::new("/etc/localtime"),
];

/// Whether Landlock decides what may be opened to read.
static REPEATS_OPENS: AtomicBool = AtomicBool::new(true);

/// A file that is opened before the confinement, for opens after it.
struct OpenFile {
    path: &'static str,
    /// -1 while it is not open.
    descriptor: AtomicI32,
}

impl OpenFile {
    const fn new(path: &'static str) -> Self {
        Self {
            path,
            descriptor: AtomicI32::new(-1),
        }
    }

    /// Opens it. Without these files, libraries use their defaults.
    fn open(&self) {
        if let Ok(file) = File::open(self.path) {
            self.descriptor.store(file.into_raw_fd(), Relaxed);
        }
    }
}

/// Lets later opens of the path of `model`'s descriptor, and of this process's environment, get what is open already: the
/// files' owner and mode may deny them to the user that the process becomes. To be called before that.
pub(super) fn keep_open(model: &File) {
    MODEL.store(model.as_raw_fd(), Relaxed);
    ENVIRONMENT.open();
}

/// Prepares the handler for a filter that lets no open through.
pub(super) fn replace_opens() {
    READABLE.iter().for_each(OpenFile::open);
    REPEATS_OPENS.store(false, Relaxed);
}

/// Installs the handler.
pub(super) fn install() -> io::Result<()> {
    let handler = SigHandler::SigAction(on_trap);
    let action = SigAction::new(handler, SaFlags::SA_NODEFER, SigSet::empty());
    // SAFETY: the handler calls only what is safe in a signal handler.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    Ok(())
}

extern "C" fn on_trap(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes both to a handler of this kind.
    let (info, mut call) = unsafe { (&*info, Call(&mut *context.cast())) };
    if info.si_code != SYS_SECCOMP {
        return;
    }
    let interrupted = Errno::last_raw();
    let [first, second, third, fourth, ..] = call.arguments();
    let result = match call.number() {
        libc::SYS_openat => open(first, second, third, fourth),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(libc::AT_FDCWD as u64, first, second, third),
        number => refuse(number),
    };
    call.set_result(result);
    Errno::set_raw(interrupted);
}

/// Opens a file to read it, as far as Landlock lets it.
fn open(folder: u64, path: u64, flags: u64, mode: u64) -> i64 {
    let writes = flags as c_int & WRITES != 0;
    let error = if writes || !REPEATS_OPENS.load(Relaxed) {
        error_of_denied_open(folder, path, writes)
    } else {
        // SAFETY: the process's own call, with an argument more. The kernel checks all pointers.
        let opened =
            unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode, 0, REPEATED) };
        if opened >= 0 {
            return opened;
        }
        Errno::last()
    };
    let path = path as *const c_char;
    if !matches!(error, Errno::EACCES | Errno::EPERM) {
        return -i64::from(error as i32);
    }
    // SAFETY: the kernel has read the path up to its zero byte, or the error would be another one.
    if !writes && let Some(file) = unsafe { copy_of_open_file(path) } {
        return file;
    }
    let line = Line::new(if writes {
        "open to write "
    } else {
        "open to read "
    });
    // SAFETY: see above.
    record(DeniedAction::File, unsafe { line.c_string(path) });
    -i64::from(error as i32)
}

/// The error of an open that the handler does not try: EACCES, or why there is no file to open.
fn error_of_denied_open(folder: u64, path: u64, writes: bool) -> Errno {
    // SAFETY: the call reads a path. The kernel checks the pointer.
    let found = unsafe { libc::syscall(libc::SYS_faccessat, folder, path, libc::F_OK) };
    match Errno::last() {
        _ if found == 0 => Errno::EACCES,
        // It would be made.
        Errno::ENOENT if writes => Errno::EACCES,
        error => error,
    }
}

/// A new descriptor of the file with this path, if it is one that is open already.
///
/// # Safety
/// `path` can be read up to its zero byte.
unsafe fn copy_of_open_file(path: *const c_char) -> Option<i64> {
    // SAFETY: see above.
    let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
    let model = MODEL.load(Relaxed);
    let file = if path.strip_prefix(b"/proc/self/fd/").and_then(number) == Some(model) {
        model
    } else {
        let mut files = READABLE.iter().chain([&ENVIRONMENT]);
        let found = files.find(|file| file.path.as_bytes() == path)?;
        found.descriptor.load(Relaxed)
    };
    // SAFETY: both calls take numbers; for -1 they fail.
    let copy = unsafe {
        libc::lseek(file, 0, libc::SEEK_SET);
        libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0)
    };
    (copy >= 0).then_some(copy.into())
}

fn number(digits: &[u8]) -> Option<c_int> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Refuses a call. One that is not known gets the error of a kernel that does not have it, for which libraries are
/// prepared.
fn refuse(number: i64) -> i64 {
    match named(number) {
        Some((action, name)) => {
            record(action, Line::new(name));
            -i64::from(libc::EPERM)
        }
        None => {
            let number = number.unsigned_abs();
            record(
                DeniedAction::System,
                Line::new("system call ").number(number),
            );
            -i64::from(libc::ENOSYS)
        }
    }
}

/// The calls that a hostile model would need most, by name.
fn named(number: i64) -> Option<(DeniedAction, &'static str)> {
    use DeniedAction::{File, Network, Process, Program, System};
    Some(match number {
        libc::SYS_openat2 => (File, "openat2"),
        libc::SYS_unlinkat => (File, "unlinkat"),
        libc::SYS_renameat2 => (File, "renameat2"),
        libc::SYS_mkdirat => (File, "mkdirat"),
        libc::SYS_truncate => (File, "truncate"),
        libc::SYS_open_by_handle_at => (File, "open_by_handle_at"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => (File, "creat"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => (File, "unlink"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => (File, "rename"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => (File, "mkdir"),
        libc::SYS_socket => (Network, "socket"),
        libc::SYS_socketpair => (Network, "socketpair"),
        libc::SYS_connect => (Network, "connect"),
        libc::SYS_bind => (Network, "bind"),
        libc::SYS_listen => (Network, "listen"),
        libc::SYS_accept => (Network, "accept"),
        libc::SYS_accept4 => (Network, "accept4"),
        libc::SYS_sendmsg => (Network, "sendmsg"),
        libc::SYS_sendto => (Network, "sendto"),
        libc::SYS_recvfrom => (Network, "recvfrom"),
        libc::SYS_recvmsg => (Network, "recvmsg"),
        libc::SYS_execve => (Program, "execve"),
        libc::SYS_execveat => (Program, "execveat"),
        libc::SYS_clone => (Program, "clone"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => (Program, "fork"),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => (Program, "vfork"),
        libc::SYS_kill => (Process, "kill"),
        libc::SYS_tkill => (Process, "tkill"),
        libc::SYS_tgkill => (Process, "tgkill"),
        libc::SYS_pidfd_open => (Process, "pidfd_open"),
        libc::SYS_pidfd_getfd => (Process, "pidfd_getfd"),
        libc::SYS_pidfd_send_signal => (Process, "pidfd_send_signal"),
        libc::SYS_ptrace => (Process, "ptrace"),
        libc::SYS_process_vm_readv => (Process, "process_vm_readv"),
        libc::SYS_process_vm_writev => (Process, "process_vm_writev"),
        libc::SYS_prlimit64 => (Process, "prlimit64"),
        libc::SYS_sched_setaffinity => (Process, "sched_setaffinity"),
        libc::SYS_setpriority => (Process, "setpriority"),
        libc::SYS_rt_sigaction => (System, "rt_sigaction"),
        libc::SYS_prctl => (System, "prctl"),
        libc::SYS_ioctl => (System, "ioctl"),
        libc::SYS_fcntl => (System, "fcntl"),
        libc::SYS_unshare => (System, "unshare"),
        libc::SYS_setns => (System, "setns"),
        libc::SYS_mount => (System, "mount"),
        libc::SYS_bpf => (System, "bpf"),
        libc::SYS_io_uring_setup => (System, "io_uring_setup"),
        libc::SYS_memfd_create => (System, "memfd_create"),
        _ => return None,
    })
}

/// A system call in the registers of the thread that made it.
struct Call<'a>(&'a mut libc::ucontext_t);

#[cfg(target_arch = "x86_64")]
impl Call<'_> {
    fn register(&self, index: c_int) -> u64 {
        self.0.uc_mcontext.gregs[index as usize].cast_unsigned()
    }

    fn number(&self) -> i64 {
        self.register(libc::REG_RAX).cast_signed()
    }

    fn arguments(&self) -> [u64; 6] {
        use libc::{REG_R8, REG_R9, REG_R10, REG_RDI, REG_RDX, REG_RSI};
        [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9].map(|index| self.register(index))
    }

    fn set_result(&mut self, result: i64) {
        self.0.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
    }
}

#[cfg(target_arch = "aarch64")]
impl Call<'_> {
    fn number(&self) -> i64 {
        self.0.uc_mcontext.regs[8].cast_signed()
    }

    fn arguments(&self) -> [u64; 6] {
        let registers = &self.0.uc_mcontext.regs;
        [0, 1, 2, 3, 4, 5].map(|index| registers[index])
    }

    fn set_result(&mut self, result: i64) {
        self.0.uc_mcontext.regs[0] = result.cast_unsigned();
    }
}
