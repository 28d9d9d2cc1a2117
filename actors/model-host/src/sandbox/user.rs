//! The user: a host of a server that runs as root becomes another one, and every host gives up all capabilities.

use std::io;

use nix::{
    sys::prctl,
    unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

/// The user and the group called nobody, which own no files.
const NOBODY: u32 = 65534;

/// Gives up the rights of root, and capabilities.
///
/// The server reads the memory of its processes from `/proc`. For a process of another user it needs CAP_SYS_PTRACE,
/// which root often lacks in a container; then the host stays root, without a capability.
pub(super) fn drop_rights() -> io::Result<()> {
    let own = capabilities(None)?.effective;
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SYS_PTRACE;
    let is_another = match geteuid().is_root() && own.contains(needed) {
        true => become_nobody(),
        false => Ok(()),
    };
    clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)?;
    Ok(is_another?)
}

fn become_nobody() -> nix::Result<()> {
    // The kernel clears it when a process changes its user.
    let on_end_of_parent = prctl::get_pdeathsig()?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    prctl::set_pdeathsig(on_end_of_parent)
}
