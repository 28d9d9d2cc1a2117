//! Landlock: the kernel refuses to open any file that is not on the list below, to use TCP, and to reach processes and
//! abstract sockets outside.
//!
//! libtorch and the libraries that it needs are mapped before the confinement, so they are not on the list. The names,
//! sizes and times of files stay visible: Landlock has no rule for them.

use std::{fs::File, os::fd::AsFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;

/// The newest rules that are asked for; the tests run with them. A kernel that has fewer applies those that it has.
const NEWEST: ABI = ABI::V7;

/// What libtorch reads while it works: the processor's features and topology, random numbers, and the time zone of what it
/// logs, which may be one that the variable TZ names.
const READABLE: [&str; 6] = [
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/dev/urandom",
    "/etc/localtime",
    "/usr/share/zoneinfo",
];

/// Why the rules do not hold.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("the kernel does not have it")]
    Absent,
    #[error("it is disabled at boot")]
    Disabled,
    #[error("a system call of it fails, as under a container's profile: {0}")]
    Failed(Errno),
    #[error("the kernel has none of the rules")]
    NotEnforced,
    #[error(transparent)]
    Refused(#[from] RulesetError),
}

/// Applies the rules. Returns their version.
pub(super) fn restrict(model: &File) -> Result<u32, FilesError> {
    let abi = abi()?;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(model.as_fd(), AccessFs::ReadFile))?;
    for path in READABLE {
        // A machine may lack one.
        let Ok(found) = PathFd::new(path) else {
            continue;
        };
        let is_folder = std::fs::metadata(path).is_ok_and(|it| it.is_dir());
        let access: BitFlags<AccessFs> = match is_folder {
            true => AccessFs::ReadFile | AccessFs::ReadDir,
            false => AccessFs::ReadFile.into(),
        };
        // Without the rule, opens of the path are denied.
        RulesetCreatedAttr::add_rule(&mut rules, PathBeneath::new(&found, access)).ok();
        // A rule holds for an inode. procfs would make another one for the same path if nothing kept this one.
        std::mem::forget(found);
    }
    match rules.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err(FilesError::NotEnforced),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(abi),
    }
}

/// The version of the kernel's Landlock.
fn abi() -> Result<u32, FilesError> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads nothing, and returns a number.
    let version = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(version).map_err(|_| match Errno::last() {
        Errno::ENOSYS => FilesError::Absent,
        Errno::EOPNOTSUPP => FilesError::Disabled,
        error => FilesError::Failed(error),
    })
}
