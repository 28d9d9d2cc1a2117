//! Which calls are repeated after a failure. [`may_repeat`] alone decides; `docs/runtime-semantics.md`
//! has the table.

use super::error::Error;

/// The step that failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// A single statement. `only_reads` holds if its caller says so.
    Statement { sql: &'a str, only_reads: bool },
    /// The begin of a transaction, which had no effect yet.
    Begin,
    /// A statement of a transaction before the commit. The caller decides whether the transaction is
    /// retryable.
    Work,
    /// The commit of a transaction. The caller decides likewise.
    Commit,
}

/// Whether `step` may be repeated after `error`: it certainly had no effect, and a repeat can succeed.
/// `demoted` says that the server took writes when the connection was opened, and takes none now.
pub(super) fn may_repeat(step: Step<'_>, error: &Error, demoted: bool) -> bool {
    match (step, error) {
        (Step::Begin, Error::Lost { .. }) => true,
        // The server undoes a transaction whose connection is lost before the commit.
        (Step::Work, error) if error.ends_connection() || demoted => true,
        (_, Error::Lost { sent, .. }) => !sent,
        (Step::Statement { sql, .. }, Error::Server(server)) if !server.begun => {
            error.is_stale_statement() || (demoted && kind(sql) != StatementKind::MayCommit)
        }
        (Step::Statement { sql, only_reads }, error) => {
            only_reads && kind(sql) == StatementKind::Query && error.is_serialization_failure()
        }
        (Step::Begin | Step::Work | Step::Commit, error) => error.is_serialization_failure(),
    }
}

/// Whether a statement that only reads, as its caller says, may be sent to a second server after a
/// first one failed.
pub(super) fn may_run_on_another_server(sql: &str) -> bool {
    kind(sql) == StatementKind::Query
}

/// The kind of a statement, by its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatementKind {
    /// It returns rows. The server undoes its effects when it fails.
    Query,
    /// It can commit while it runs: effects before its failure may last.
    MayCommit,
    /// Anything else.
    Other,
}

const QUERIES: [&str; 5] = ["select", "with", "values", "table", "show"];
const MAY_COMMIT: [&str; 2] = ["call", "do"];

fn kind(sql: &str) -> StatementKind {
    let rest = skip_comments(sql);
    let end = rest.find(|character: char| !character.is_ascii_alphabetic());
    let word = &rest[..end.unwrap_or(rest.len())];
    let is = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    if is(&QUERIES) {
        StatementKind::Query
    } else if is(&MAY_COMMIT) {
        StatementKind::MayCommit
    } else {
        StatementKind::Other
    }
}

/// `sql` without leading white space, comments and parentheses.
fn skip_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            rest = skip_block_comment(rest);
        } else {
            return rest;
        }
    }
}

/// `text` without the block comment at its start. Block comments nest.
fn skip_block_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (0_usize, text);
    loop {
        if let Some(inner) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, inner);
        } else if let Some(after) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, after);
        } else {
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return "";
            }
            rest = characters.as_str();
        }
        if depth == 0 {
            return rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ServerError;
    use super::*;

    fn refused(sqlstate: &str, begun: bool) -> Error {
        Error::Server(Box::new(ServerError {
            sqlstate: sqlstate.to_owned(),
            message: "no".to_owned(),
            constraint: None,
            begun,
        }))
    }

    fn lost(sent: bool) -> Error {
        Error::Lost {
            sent,
            reason: "cut".to_owned(),
        }
    }

    #[test]
    fn the_first_word_of_a_statement_gives_its_kind() {
        for sql in [
            "select 1",
            " ( SELECT 1) union select 2",
            "-- call\nwith x as (select 1) table x",
            "/* a /* b */ call */ values (1)",
        ] {
            assert_eq!(kind(sql), StatementKind::Query, "{sql}");
        }
        for sql in [
            "call pay()",
            "/**/CALL pay()",
            "do $$begin end$$",
            "Do\n'x'",
        ] {
            assert_eq!(kind(sql), StatementKind::MayCommit, "{sql}");
        }
        for sql in [
            "",
            "--",
            "/*",
            "insert into t values (1)",
            "selection",
            "vacuum",
        ] {
            assert_eq!(kind(sql), StatementKind::Other, "{sql}");
        }
    }

    #[test]
    fn calls_are_repeated_as_the_documented_table_says() {
        let statement = |sql, only_reads| Step::Statement { sql, only_reads };
        let (read, write, call) = ("select 1", "insert into t values (1)", "call pay()");
        let serialization = || refused("40001", true);
        for (step, error, demoted, repeated) in [
            // Statements that did not start.
            (statement(call, false), lost(false), false, true),
            (statement(call, false), refused("26000", false), false, true),
            (statement(write, false), refused("25006", false), true, true),
            // Statements that started.
            (statement(call, false), refused("25006", false), true, false),
            (statement(write, false), lost(true), false, false),
            (statement(write, false), serialization(), false, false),
            (
                statement(write, false),
                refused("26000", true),
                false,
                false,
            ),
            (statement(write, false), refused("25006", true), true, false),
            (statement(read, false), serialization(), false, false),
            (statement(read, true), serialization(), false, true),
            (statement(read, true), lost(true), false, false),
            (statement(call, true), serialization(), false, false),
            (statement(write, true), serialization(), false, false),
            // Retryable transactions.
            (Step::Begin, lost(true), false, true),
            (Step::Work, lost(true), false, true),
            (Step::Work, serialization(), false, true),
            (Step::Work, refused("23505", true), false, false),
            (Step::Commit, serialization(), false, true),
            (Step::Commit, lost(true), false, false),
            (Step::Commit, Error::Aborted, false, false),
        ] {
            let decided = may_repeat(step, &error, demoted);
            assert_eq!(decided, repeated, "{step:?} after {error:?}");
        }
    }
}
