//! The user: a host of a server that runs as root becomes another one, and every host gives up all capabilities.

use std::io;

use nix::{
    sys::prctl,
    unistd::{Gid, Uid, geteuid, getppid, setgroups, setresgid, setresuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

use crate::process;

/// The user and the group called nobody, which own no files.
const NOBODY: u32 = 65534;

/// What root needs to change the user of a host, and then to signal it and to read its memory from `/proc`. Root often
/// lacks some of it in a container.
const NEEDED: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
];

/// Why the process stays root.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserError {
    #[error("the server is root without {0}")]
    Lacks(String),
    #[error(transparent)]
    Refused(#[from] io::Error),
}

/// Changes the user, if it is root.
pub(super) fn leave_root() -> Result<(), UserError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let own = capabilities(None).map_err(io::Error::from)?.effective;
    let lacking = NEEDED.into_iter().filter(|(it, _)| !own.contains(*it));
    let lacking: Vec<&str> = lacking.map(|(_, name)| name).collect();
    if !lacking.is_empty() {
        return Err(UserError::Lacks(lacking.join(", ")));
    }
    Ok(become_nobody().map_err(io::Error::from)?)
}

fn become_nobody() -> nix::Result<()> {
    let parent = getppid();
    // The kernel clears it when a process changes its user or its group, so also where only one is changed.
    let on_end_of_parent = prctl::get_pdeathsig()?;
    let changed = change_user_and_groups();
    prctl::set_pdeathsig(on_end_of_parent)?;
    // The parent has ended while there was no signal for it.
    if getppid() != parent {
        process::exit(process::ExitCode::Ok);
    }
    changed
}

fn change_user_and_groups() -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

/// Gives up all capabilities. Also where the process stays root.
pub(super) fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}
