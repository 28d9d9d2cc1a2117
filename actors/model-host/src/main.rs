//! The process that runs one TorchScript model: the only part of Headroom that links libtorch.
//!
//! One process per loaded model, because ending a process is the only sure way to get all of libtorch's memory back,
//! and because a crash or a hang in a model then takes nothing else along.
//!
//! - `--zygote`: maps libtorch once and forks a host per request ([`zygote`]);
//! - `--serve`: is a host itself, without fork ([`serve`], [`reader`]);
//! - `--check FILE`: says whether a file can be loaded ([`check`]).
//!
//! Layout: [`archive`], [`pickle`] and [`signature`] read a model file without libtorch and refuse what libtorch would
//! crash on; [`torch`] is the edge to libtorch's C interface, [`tensor`] and [`flatten`] turn its values into frames,
//! [`model`] is one loaded model; [`descriptors`], [`memory`] and [`process`] are the edges to the operating system.

mod archive;
mod check;
mod descriptors;
mod flatten;
mod memory;
mod model;
mod pickle;
mod process;
mod reader;
mod reason;
mod serve;
mod signature;
mod tensor;
mod torch;
mod zygote;

use std::{ffi::OsString, path::Path};

use crate::process::ExitCode;

const USAGE: &str = "usage: headroom-model-host --zygote | --serve | --check FILE | --version";

fn main() {
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
            process::print_line(concat!("headroom-model-host ", env!("CARGO_PKG_VERSION")));
            ExitCode::Ok
        }
        _ => {
            process::log(USAGE);
            ExitCode::Usage
        }
    };
    process::exit(code)
}

/// Runs the zygote; in a forked child it goes on as a host.
fn run_zygote() -> ExitCode {
    match zygote::run() {
        Ok(zygote::End::Closed) => ExitCode::Ok,
        Ok(zygote::End::Child(socket)) => serve::serve(socket),
        Err(error) => {
            process::log(&format!("the zygote ends: {}", process::chain(&error)));
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
            process::log(&format!("standard input is no socket: {error}"));
            ExitCode::Usage
        }
    }
}
