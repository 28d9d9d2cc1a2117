//! The process that runs one TorchScript model: the only part of Headroom that links libtorch.
//!
//! Each loaded model has processes of its own, because only the end of a process frees all of libtorch's memory, and
//! because a crash or a hang in a model then affects nothing else.
//!
//! - `--zygote`: maps libtorch once and forks a host per request ([`zygote`]);
//! - `--serve`: runs as a host, without a fork ([`serve`], [`reader`], [`frames`]);
//! - `--check FILE`: reports whether a file can be loaded ([`check`]);
//! - `--version`: prints its version and that of libtorch ([`version`]).
//!
//! [`archive`], [`pickle`], [`signature`] and [`default`] read a model file without libtorch and refuse files on which
//! libtorch would crash. [`sandbox`] confines the process before that. [`torch`] calls libtorch's C interface, [`failure`]
//! shortens its errors, [`tensor`] and [`flatten`] convert its values, [`model`] is one loaded model. [`memory`] and
//! [`process`] call the operating system.

mod archive;
mod arguments;
mod check;
mod default;
mod failure;
mod flatten;
mod frames;
mod memory;
mod model;
mod pickle;
mod process;
mod reader;
mod sandbox;
mod serve;
mod signature;
mod tensor;
mod torch;
mod version;
mod zygote;

use std::{ffi::OsString, path::Path};

use crate::process::ExitCode;

const USAGE: &str = "usage: headroom-model-host --zygote | --serve | --check FILE | --version";

fn main() {
    // A panic leaves the state unknown, on whichever thread it happens.
    std::panic::set_hook(Box::new(|panic| {
        process::log(&format!("the model host panicked: {panic}"));
        process::exit(ExitCode::Internal)
    }));
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let flags: Vec<&str> = arguments
        .iter()
        .map(|argument| argument.to_str().unwrap_or_default())
        .collect();
    let code = match flags[..] {
        ["--zygote"] => run_zygote(),
        ["--serve"] => run_host(),
        ["--check", _] => check::check(Path::new(&arguments[1])),
        ["--version"] => {
            for line in version::lines() {
                process::print_line(&line);
            }
            ExitCode::Ok
        }
        _ => {
            process::log(USAGE);
            ExitCode::Usage
        }
    };
    process::exit(code)
}

/// Runs the zygote. In a forked child it continues as a host.
fn run_zygote() -> ExitCode {
    match zygote::run() {
        Ok(None) => ExitCode::Ok,
        Ok(Some(socket)) => serve::serve(socket),
        Err(error) => {
            process::log(&format!("the zygote exits: {error}"));
            ExitCode::Protocol
        }
    }
}

/// Runs a host whose socket is standard input.
fn run_host() -> ExitCode {
    match process::take_socket_from_stdin() {
        Ok(socket) => {
            process::follow_parent();
            serve::serve(socket)
        }
        Err(error) => {
            process::log(&format!("standard input is not a socket: {error}"));
            ExitCode::Usage
        }
    }
}
