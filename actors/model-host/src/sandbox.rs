//! The confinement of a host: what the process may still do once it opens a model.
//!
//! A TorchScript file is a program, and libtorch a large body of native code that reads it. [`confine`] takes from the
//! process what neither needs, before the first byte of the file is read:
//!
//! - [`user`]: the rights of root, and limits of the process;
//! - [`files`]: every file but a few, and TCP, by the kernel's Landlock;
//! - [`system_calls`]: programs, sockets, other processes and whatever else is not on its list, by a seccomp filter;
//! - [`trap`]: what the filter refuses comes here, to be counted and logged ([`denials`]).
//!
//! Each part holds for the rest of the process's life and without the others. The parts overlap, so that an old kernel
//! that lacks one loses as little as possible. Nothing here runs in the zygote.

mod denials;
mod files;
mod system_calls;
mod trap;
mod user;

use std::fs::File;

use headroom_model_protocol::{Failure, FailureKind, Sandbox, SandboxMode, SandboxState};
use nix::{sys::prctl, unistd::geteuid};

use crate::{failure::failure, memory, process};

pub(crate) use self::denials::take as take_denials;

/// Confines this process, which is about to load `model`. To be called while it has one thread.
pub(crate) fn confine(mode: SandboxMode, model: &File) -> Result<Sandbox, Failure> {
    let mut sandbox = Sandbox::default();
    if mode != SandboxMode::Off {
        apply(model, &mut sandbox);
    }
    sandbox.user = geteuid().as_raw();
    if mode == SandboxMode::Required && !sandbox.missing.is_empty() {
        let message = format!(
            "models.sandbox is \"required\", and this system lacks: {}",
            sandbox.missing.join("; ")
        );
        return Err(failure(FailureKind::Settings, message));
    }
    Ok(sandbox)
}

fn apply(model: &File, sandbox: &mut Sandbox) {
    memory::open_figures();
    trap::keep_open(model);
    let mut missing = Vec::new();
    let mut add_missing = |part: &str, reason: &dyn ToString| {
        missing.push(format!("{part} ({})", reason.to_string()));
    };
    // Another thread would stay as it is.
    if let Err(error) = process::expect_one_thread() {
        add_missing("one thread", &error);
    }
    if let Err(error) = prctl::set_no_new_privs() {
        add_missing("no_new_privs", &error);
    }
    if let Err(error) = process::limit_resources() {
        add_missing("resource limits", &error);
    }
    if let Err(error) = user::leave_root() {
        add_missing("an unprivileged user", &error);
    }
    if let Err(error) = user::drop_capabilities() {
        add_missing("no capabilities", &error);
    }
    match files::restrict(model) {
        Ok(abi) => sandbox.landlock_abi = Some(abi),
        Err(error) => add_missing("landlock", &error),
    }
    match system_calls::restrict(sandbox.landlock_abi.is_some()) {
        Ok(()) => sandbox.seccomp = true,
        Err(error) => add_missing("seccomp", &error),
    }
    sandbox.state = match missing.is_empty() {
        true => SandboxState::Full,
        false => SandboxState::Partial,
    };
    sandbox.missing = missing;
}
