//! The command line for people: commands that ask a running server, the check of a machine, and files for shells.
//! Everything is run as a user runs it, in a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clean_up;
mod data_dir;
mod doctor;
mod job;
mod models;
mod named_pipes;
mod other_server;
mod shell;
mod status;
mod unreachable;
mod wrong_settings;

use std::fs;
use std::process::Command;

use headroom_test_support::child;
use headroom_test_support::server::Server;
use headroom_test_support::wait::DEADLINE;
use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// The end of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The output of a command that has succeeded, without a word on standard error.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// The output of a command that has failed with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> (String, String) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.starts_with("headroom: "), "{self:?}");
        (self.stdout, self.stderr)
    }
}

/// A command of the binary, in an empty folder and without the settings of whoever runs the tests.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = child::command(BINARY);
    command.args(arguments).env_remove("HEADROOM_URL");
    command
}

/// Runs a command to its end, in a folder with an empty folder of models if it has no folder of its own.
pub(crate) fn run(mut command: Command) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("models")).unwrap();
    if command.get_current_dir().is_none() {
        command.current_dir(folder.path());
    }
    let output = child::output(&mut command, DEADLINE).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs a command that asks `server`.
pub(crate) fn ask(server: &Server, arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    run({
        command.arg("--url").arg(server.url(""));
        command
    })
}

/// The JSON that a command has written.
#[track_caller]
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The words of the line of a table that begins with `first`.
#[track_caller]
pub(crate) fn row<'text>(table: &'text str, first: &str) -> Vec<&'text str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect());
    let mut rows = rows.filter(|words: &Vec<_>| words.first() == Some(&first));
    rows.next()
        .unwrap_or_else(|| panic!("no row {first} in\n{table}"))
}
