//! The table of all decisions, which `docs/runtime-semantics.md` shows.

use std::fmt::Write;
use std::fs;

use super::super::error::{Progress, ServerError};
use super::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runtime-semantics.md");
const BEGIN: &str = "<!-- written by the test `the_page_has_the_table_of_all_decisions` -->\n";
const END: &str = "<!-- end of the table -->\n";
const COMMAND: &str =
    "UPDATE=1 cargo nextest run -p headroom-actors the_page_has_the_table_of_all_decisions";

fn refused(sqlstate: &str, progress: Progress) -> Error {
    Error::Server(Box::new(ServerError {
        sqlstate: sqlstate.to_owned(),
        message: "no".to_owned(),
        constraint: None,
        progress,
    }))
}

fn lost(sent: bool) -> Error {
    Error::Lost {
        sent,
        reason: "cut".to_owned(),
    }
}

/// Every step, with its heading.
fn steps() -> Vec<(&'static str, Step<'static>)> {
    let statement = |sql, only_reads, repeatable| Step::Statement {
        sql,
        only_reads,
        repeatable,
    };
    let (read, write, call) = ("select 1", "insert into t values (1)", "call pay()");
    vec![
        ("`query`", statement(write, false, false)),
        ("`query` that may commit", statement(call, false, false)),
        ("`read_only().query`", statement(read, true, false)),
        ("`repeatable().query`", statement(read, true, true)),
        ("the same on a replica", Step::OnReplica { sql: read }),
        ("begin", Step::Begin),
        (
            "first statement of a transaction",
            Step::Work { is_first: true },
        ),
        ("later statement", Step::Work { is_first: false }),
        ("commit", Step::Commit),
    ]
}

/// Every kind of failure, with its name, and whether the server was demoted.
fn failures() -> Vec<(&'static str, Error, bool)> {
    vec![
        (
            "the connection was lost before the call was sent",
            lost(false),
            false,
        ),
        ("the connection was lost later", lost(true), false),
        (
            "no answer within the deadline",
            Error::Deadline { sent: true },
            false,
        ),
        (
            "the cached statement is out of date",
            refused("XX000", Progress::Cached),
            false,
        ),
        (
            "serialization failure or deadlock, before it ran",
            refused("40001", Progress::Unbegun),
            false,
        ),
        (
            "serialization failure or deadlock",
            refused("40001", Progress::Begun),
            false,
        ),
        (
            "the server was demoted and refuses the whole statement",
            refused("25006", Progress::Unbegun),
            true,
        ),
        (
            "the server was demoted and refuses a part of it",
            refused("25006", Progress::Begun),
            true,
        ),
        (
            "any other error of the server",
            refused("23505", Progress::Begun),
            false,
        ),
        (
            "an unexpected answer",
            Error::Protocol("unexpected".to_owned()),
            false,
        ),
    ]
}

fn cell(step: Step<'_>, decision: Decision) -> &'static str {
    match (decision, step) {
        (Decision::Return, _) => "–",
        (Decision::PrepareAgain, _) => "prepared again",
        (Decision::Repeat, Step::Work { .. } | Step::Commit) => "all, if marked",
        (Decision::Repeat, _) => "again",
        (Decision::OnPrimary(_), _) => "primary",
    }
}

fn table() -> String {
    let steps = steps();
    let mut table = String::from("| after |");
    for (heading, _) in &steps {
        write!(table, " {heading} |").unwrap();
    }
    table += &format!("\n|---|{}\n", "---|".repeat(steps.len()));
    for (name, error, demoted) in failures() {
        write!(table, "| {name} |").unwrap();
        for (_, step) in &steps {
            let decision = decide(*step, &error, demoted);
            write!(table, " {} |", cell(*step, decision)).unwrap();
        }
        table.push('\n');
    }
    table
}

#[test]
fn the_page_has_the_table_of_all_decisions() {
    let table = table();
    let page = fs::read_to_string(PATH).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the begin of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    if found.trim() != table.trim() && std::env::var_os("UPDATE").is_some() {
        let page = format!("{before}{BEGIN}\n{table}\n{END}{after}");
        fs::write(PATH, page).unwrap();
        return;
    }
    assert_eq!(found.trim(), table.trim(), "`{COMMAND}` updates the page");
}

#[test]
fn what_may_have_had_an_effect_is_repeated_only_if_its_caller_allows_that() {
    for (name, error, demoted) in failures() {
        let begun = match &error {
            Error::Server(error) => error.progress == Progress::Begun,
            error => !error.is_unsent(),
        };
        for sql in [
            "insert into t values (1)",
            "call pay()",
            "; call pay()",
            "select 1",
        ] {
            let step = Step::Statement {
                sql,
                only_reads: false,
                repeatable: false,
            };
            let decision = decide(step, &error, demoted);
            assert!(!begun || decision == Decision::Return, "{sql} after {name}");
        }
        // A statement that changes something does so whatever its caller says.
        for sql in ["insert into t values (1)", "call pay()", "; call pay()"] {
            let step = Step::Statement {
                sql,
                only_reads: true,
                repeatable: true,
            };
            for step in [step, Step::OnReplica { sql }] {
                let decision = decide(step, &error, demoted);
                assert!(!begun || decision == Decision::Return, "{sql} after {name}");
            }
        }
    }
    // The commit of a transaction may have lasted.
    for error in [lost(true), Error::Deadline { sent: true }, Error::Aborted] {
        assert_eq!(decide(Step::Commit, &error, false), Decision::Return);
    }
}
