//! The filter of system calls: a list of what a loaded model needs. The kernel passes all else to the handler in
//! [`super::trap`], and ends the process at a call of another architecture.
//!
//! A list of what is allowed stays complete when the kernel gets new calls. It has what libtorch, the C and C++ runtimes
//! and the host itself call between the first byte of a model file and the exit, found by tracing the tests, and the
//! harmless neighbours of these calls.

use std::{collections::BTreeMap, io};

use nix::{libc, unistd::getpid};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::trap;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Allowed with any arguments. No one of them reaches another process, and none takes a new file or socket.
const ALLOWED: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Descriptors that are open.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fallocate,
    // Advice about how a file will be read.
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_shutdown,
    // What can be seen of a file without opening it.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Threads.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_rseq,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    // Signals to itself.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_times,
    // Facts about this process and the machine.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older forms of calls above, which the newer architecture does not have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLD: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_OLD: &[i64] = &[];

/// Why the filter does not hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    #[error("the handler cannot be installed: {0}")]
    Handler(#[from] io::Error),
    #[error("{0}")]
    Build(#[from] BackendError),
    #[error("{0}")]
    Refused(#[from] seccompiler::Error),
}

/// Applies the filter to this thread, and so to all that it starts. Lets it open files to read if Landlock decides which.
pub(super) fn restrict(has_landlock: bool) -> Result<(), FilterError> {
    trap::install()?;
    if !has_landlock {
        trap::replace_opens();
    }
    // With all signals blocked, where a trap would end the process, the C library tries `clone3`, whose flags a filter
    // cannot read. This error makes it use `clone`.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = compile(
        no_clone3,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    )?;
    let allowed = compile(
        allowed(has_landlock)?,
        SeccompAction::Trap,
        SeccompAction::Allow,
    )?;
    apply_filter(&no_clone3)?;
    apply_filter(&allowed)?;
    Ok(())
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, mismatch, matching, ARCHITECTURE)?.try_into()
}

/// The calls that the filter lets through, with the conditions on their arguments.
fn allowed(has_landlock: bool) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let own = u64::from(getpid().as_raw().cast_unsigned());
    let mut rules = BTreeMap::new();
    for &call in ALLOWED.iter().chain(ALLOWED_OLD) {
        rules.insert(call, Vec::new());
    }
    // The other filter refuses it.
    rules.insert(libc::SYS_clone3, Vec::new());
    if has_landlock {
        // Never to write: old versions of Landlock have no rule for O_TRUNC.
        let writes = SeccompCmpOp::MaskedEq(u64::from(trap::WRITES.cast_unsigned()));
        let is_read = SeccompCondition::new(2, SeccompCmpArgLen::Dword, writes, 0)?;
        let is_marked =
            SeccompCondition::new(5, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, trap::REPEATED)?;
        let marked_read = SeccompRule::new(vec![is_read, is_marked])?;
        rules.insert(libc::SYS_openat, vec![marked_read]);
    }
    // A thread of this process, in its namespaces.
    let namespaces = libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWUTS;
    let flags = u64::from((libc::CLONE_THREAD | namespaces).cast_unsigned());
    let is_thread = SeccompCmpOp::MaskedEq(flags);
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
    rules.insert(
        libc::SYS_clone,
        vec![one(0, SeccompCmpArgLen::Qword, is_thread, thread)?],
    );
    // The socket to the server, without urgent data, which had faults in kernels. `sendmsg` could send descriptors, which
    // the host never does.
    let not_urgent = SeccompCmpOp::MaskedEq(u64::from(libc::MSG_OOB.cast_unsigned()));
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_recvfrom, 3),
        (libc::SYS_recvmsg, 2),
    ] {
        let rule = one(flags, SeccompCmpArgLen::Dword, not_urgent.clone(), 0)?;
        rules.insert(call, vec![rule]);
    }
    // This process and its threads only: 0 is the caller.
    for (call, process) in [
        (libc::SYS_tgkill, own),
        (libc::SYS_prlimit64, 0),
        (libc::SYS_sched_setaffinity, 0),
    ] {
        rules.insert(call, vec![equals(0, process)?]);
    }
    // Not the handler of denied calls.
    let sigsys = u64::from(libc::SIGSYS.cast_unsigned());
    let other_signal = one(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, sigsys)?;
    rules.insert(libc::SYS_rt_sigaction, vec![other_signal]);
    // Names of threads and of memory.
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, any_of(0, names)?);
    // Not the commands that choose whom a signal goes to, and none that changes flags which the server's end may share.
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
    ];
    rules.insert(libc::SYS_fcntl, any_of(1, commands)?);
    // Whether a descriptor is a terminal.
    let requests = [i32::try_from(libc::TCGETS).unwrap_or_default()];
    rules.insert(libc::SYS_ioctl, any_of(1, requests)?);
    Ok(rules)
}

fn any_of<const N: usize>(
    argument: u8,
    values: [i32; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let values = values.into_iter();
    values
        .map(|value| equals(argument, u64::from(value.cast_unsigned())))
        .collect()
}

/// A call whose argument, of 32 bits, has this value.
fn equals(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    one(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn one(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument, length, operator, value,
    )?])
}
