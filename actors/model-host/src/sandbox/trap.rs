//! The signal handler for system calls that the filter does not let through.
//!
//! The kernel sends SIGSYS in the place of the call; what the handler writes into the registers is the call's result.
//! Opens of files come here too: the handler repeats each with a mark that the filter knows, so that Landlock decides,
//! and records it if that denies it. All else gets an error. The handler only explains: it grants nothing that the
//! process could not do without it.
//!
//! The kernel ends a process that blocks the signal, as `posix_spawn` does, at its first denied call.

use std::{
    ffi::{c_char, c_int, c_void},
    fs::File,
    io,
    os::fd::{AsRawFd, IntoRawFd},
    sync::atomic::{AtomicI32, Ordering::Relaxed},
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

/// The file that holds this process's environment. libtorch's MKL looks for its own variables there.
const ENVIRONMENT: &str = "/proc/self/environ";

/// Descriptors that are returned for opens which the file's owner and mode deny to this process's user; -1 for none.
static MODEL: AtomicI32 = AtomicI32::new(-1);
static OWN_ENVIRONMENT: AtomicI32 = AtomicI32::new(-1);

/// Lets later opens of the path of `model`'s descriptor, and of this process's environment, get what is open already.
/// To be called before the process changes its user.
pub(super) fn hand_over(model: &File) {
    MODEL.store(model.as_raw_fd(), Relaxed);
    // Without it, MKL uses its defaults.
    if let Ok(environment) = File::open(ENVIRONMENT) {
        OWN_ENVIRONMENT.store(environment.into_raw_fd(), Relaxed);
    }
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

/// Opens a file as far as Landlock lets it.
fn open(folder: u64, path: u64, flags: u64, mode: u64) -> i64 {
    // SAFETY: the process's own call, with an argument more. The kernel checks all pointers.
    let opened = unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode, 0, REPEATED) };
    if opened >= 0 {
        return opened;
    }
    let error = Errno::last();
    let path = path as *const c_char;
    if !matches!(error, Errno::EACCES | Errno::EPERM) {
        return -i64::from(error as i32);
    }
    // SAFETY: the kernel has read the path up to its zero byte, or the error would be another one.
    if let Some(file) = unsafe { handed_over(path) } {
        return file;
    }
    let writes = flags as c_int & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) != 0;
    let line = Line::new(if writes {
        "open to write "
    } else {
        "open to read "
    });
    // SAFETY: see above.
    record(DeniedAction::File, unsafe { line.c_string(path) });
    -i64::from(error as i32)
}

/// A new descriptor of the file with this path, if it is one that is open already.
///
/// # Safety
/// `path` can be read up to its zero byte.
unsafe fn handed_over(path: *const c_char) -> Option<i64> {
    // SAFETY: see above.
    let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_bytes();
    let model = MODEL.load(Relaxed);
    let file = if path == ENVIRONMENT.as_bytes() {
        OWN_ENVIRONMENT.load(Relaxed)
    } else if path.strip_prefix(b"/proc/self/fd/").and_then(number) == Some(model) {
        model
    } else {
        -1
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
