//! What is sent a second time, and what never: [`may_repeat`] alone decides. `docs/runtime-semantics.md`
//! has the table.

use super::error::Error;

/// What failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failed<'a> {
    /// A single statement. `only_reads` is the word of its caller.
    Statement { sql: &'a str, only_reads: bool },
    /// The begin of a transaction: nothing had been done in it.
    Begin,
    /// Something within a transaction, before its commit. Its caller decides by marking the
    /// transaction as retryable or not.
    Work,
    /// The commit of a transaction, likewise.
    Commit,
}

/// Whether the same may be sent once more after `error`: only what has certainly had no effect, and
/// that can have another end. `demoted` says that the server, opened to write, takes no writes any
/// more.
pub(super) fn may_repeat(failed: Failed<'_>, error: &Error, demoted: bool) -> bool {
    match (failed, error) {
        (Failed::Begin, Error::Lost { .. }) => true,
        // What is lost before the commit is undone.
        (Failed::Work, error) if error.ends_connection() || demoted => true,
        (_, Error::Lost { sent, .. }) => !sent,
        (Failed::Statement { sql, .. }, Error::Server(server)) if !server.begun => {
            error.is_stale_statement() || (demoted && sort(sql) != Sort::MayCommit)
        }
        (Failed::Statement { sql, only_reads }, error) => {
            only_reads && sort(sql) == Sort::Query && error.is_serialization_failure()
        }
        (Failed::Begin | Failed::Work | Failed::Commit, error) => error.is_serialization_failure(),
    }
}

/// Whether a statement that its caller says only reads may be sent to another server after it was
/// sent to one.
pub(super) fn may_go_elsewhere(sql: &str) -> bool {
    sort(sql) == Sort::Query
}

/// What a statement is, by its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// It returns rows; what it does is undone when it fails.
    Query,
    /// It can commit while it runs: what it did before it failed may last.
    MayCommit,
    /// Anything else.
    Other,
}

const QUERIES: [&str; 5] = ["select", "with", "values", "table", "show"];
const MAY_COMMIT: [&str; 2] = ["call", "do"];

fn sort(sql: &str) -> Sort {
    let rest = after_comments(sql);
    let end = rest.find(|character: char| !character.is_ascii_alphabetic());
    let word = &rest[..end.unwrap_or(rest.len())];
    let is = |words: &[&str]| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    if is(&QUERIES) {
        Sort::Query
    } else if is(&MAY_COMMIT) {
        Sort::MayCommit
    } else {
        Sort::Other
    }
}

/// `sql` without the white space, the comments and the parentheses that it begins with.
fn after_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else {
            return rest;
        }
    }
}

/// What follows the comment that `text` begins with. Such comments can hold others.
fn after_block_comment(text: &str) -> &str {
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
            table: None,
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
    fn the_first_word_tells_what_a_statement_is() {
        for sql in [
            "select 1",
            " ( SELECT 1) union select 2",
            "-- call\nwith x as (select 1) table x",
            "/* a /* b */ call */ values (1)",
        ] {
            assert_eq!(sort(sql), Sort::Query, "{sql}");
        }
        for sql in [
            "call pay()",
            "/**/CALL pay()",
            "do $$begin end$$",
            "Do\n'x'",
        ] {
            assert_eq!(sort(sql), Sort::MayCommit, "{sql}");
        }
        for sql in [
            "",
            "--",
            "/*",
            "insert into t values (1)",
            "selection",
            "vacuum",
        ] {
            assert_eq!(sort(sql), Sort::Other, "{sql}");
        }
    }

    #[test]
    fn what_the_table_says() {
        let statement = |sql, only_reads| Failed::Statement { sql, only_reads };
        let (read, write, call) = ("select 1", "insert into t values (1)", "call pay()");
        let serialization = || refused("40001", true);
        for (failed, error, demoted, repeated) in [
            // What never began, whatever it is.
            (statement(call, false), lost(false), false, true),
            (statement(call, false), refused("26000", false), false, true),
            (statement(write, false), refused("25006", false), true, true),
            // What began.
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
            // Transactions that are marked.
            (Failed::Begin, lost(true), false, true),
            (Failed::Work, lost(true), false, true),
            (Failed::Work, serialization(), false, true),
            (Failed::Work, refused("23505", true), false, false),
            (Failed::Commit, serialization(), false, true),
            (Failed::Commit, lost(true), false, false),
            (Failed::Commit, Error::Aborted, false, false),
        ] {
            let decided = may_repeat(failed, &error, demoted);
            assert_eq!(decided, repeated, "{failed:?} after {error:?}");
        }
    }
}
