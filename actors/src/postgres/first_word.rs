//! What a statement is, as its first words say.
//!
//! The server parses a statement; this module only reads its beginning, as the server's lexer does. So
//! it knows what a statement begins with, and not what the functions do that the statement calls.

use super::error::Error;

/// The kind of a statement, by its first words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementKind {
    /// It returns rows. The server undoes its effects when it fails.
    Query,
    /// It can commit while it runs: effects before its failure may last.
    MayCommit,
    /// Anything else.
    Other,
}

const QUERIES: &[&str] = &["select", "with", "values", "table", "show"];

/// `alter` is among them whole: its forms that commit by themselves name a table first.
const MAY_COMMIT: &[&str] = &[
    "call",
    "do",
    "alter",
    "analyze",
    "checkpoint",
    "cluster",
    "reindex",
    "vacuum",
];

/// What `create` and `drop` commit by themselves.
const MADE_AT_ONCE: &[&str] = &[
    "concurrently",
    "database",
    "subscription",
    "tablespace",
    "type",
];

impl StatementKind {
    pub(super) fn of(sql: &str) -> Self {
        let mut words = Words(skip_empty_statements(sql));
        let first = words.next().unwrap_or_default();
        if is(first, QUERIES) {
            Self::Query
        } else if is(first, MAY_COMMIT)
            || is(first, &["create", "drop"]) && words.any(|word| is(word, MADE_AT_ONCE))
        {
            Self::MayCommit
        } else {
            Self::Other
        }
    }
}

/// Whether `sql` only reads or writes rows. Then it can run in one transaction with what comes before it.
pub(super) fn works_on_rows(sql: &str) -> bool {
    let first = Words(skip_empty_statements(sql)).next();
    first
        .is_some_and(|word| is(word, QUERIES) || is(word, &["insert", "update", "delete", "merge"]))
}

const TRANSACTION: &str = "`Database::begin` or `Database::transaction`";
const SESSION: &str = "`Database::exclusive`, or a transaction: they have the session for themselves, which \
    is reset after them";

/// The statements that would begin something on a connection or change its session, and what to use
/// instead.
const NOT_SHARED: &[(&[&str], &str)] = &[
    (
        &[
            "begin",
            "start",
            "commit",
            "end",
            "rollback",
            "abort",
            "savepoint",
            "release",
            "lock",
        ],
        TRANSACTION,
    ),
    (
        &[
            "set",
            "reset",
            "discard",
            "load",
            "prepare",
            "execute",
            "deallocate",
            "declare",
            "fetch",
            "move",
            "close",
        ],
        SESSION,
    ),
    (
        &["copy"],
        "`Transaction::copy_in` or `Transaction::copy_out`, and for files of the server a transaction",
    ),
    (&["listen", "unlisten"], "`Database::listen`"),
];

/// Checks that `sql` may run over a connection that other callers share.
///
/// # Errors
/// [`Error::NotShared`], when it would begin something on the connection or change its session.
pub(super) fn check_shared(sql: &str) -> Result<(), Error> {
    let mut words = Words(skip_empty_statements(sql));
    let first = words.next().unwrap_or_default();
    let refused = NOT_SHARED.iter().find_map(|(refused, instead)| {
        let word = refused.iter().find(|word| is(first, &[word]))?;
        Some((*word, *instead))
    });
    match refused {
        Some((word, instead)) => Err(Error::NotShared { word, instead }),
        None if makes_temporary(sql, first, words) => Err(Error::NotShared {
            word: "create temporary",
            instead: SESSION,
        }),
        None => Ok(()),
    }
}

/// Whether `sql`, which may be several statements, says that it changes the session or locks something for it.
pub(super) fn changes_session(sql: &str) -> bool {
    let may_run_anything = |part| {
        let first = Words(skip_empty_statements(part)).next();
        first.is_some_and(|word| is(word, &["call", "do"]))
    };
    // A temporary table may also be made by `select into`.
    let has_word = ["set_config", "advisory", "temp"]
        .iter()
        .any(|word| contains(sql, word));
    // A part may begin within a text: then it is taken for a statement that it is not.
    let mut parts = sql.split(';');
    has_word || parts.any(|part| may_run_anything(part) || check_shared(part).is_err())
}

/// Whether `sql`, with `first` and then `words` at its beginning, makes a temporary table or view.
fn makes_temporary(sql: &str, first: &str, words: Words<'_>) -> bool {
    if !is(first, &["create"]) {
        return is(first, &["select", "with"]) && selects_into_temporary(sql);
    }
    let mut options = words.skip_while(|word| is(word, &["or", "replace", "global", "local"]));
    options
        .next()
        .is_some_and(|word| is(word, &["temp", "temporary"]))
        || contains(sql, "pg_temp")
}

/// Whether `sql` is a `COPY`.
pub(super) fn begins_with_copy(sql: &str) -> bool {
    let first = Words(skip_empty_statements(sql)).next();
    first.is_some_and(|word| is(word, &["copy"]))
}

/// Whether `sql` begins with the begin of a transaction.
pub(super) fn begins_transaction(sql: &str) -> bool {
    let first = Words(skip_empty_statements(sql)).next();
    first.is_some_and(|word| is(word, &["begin", "start"]))
}

/// Whether `sql` begins with the commit of a transaction.
pub(super) fn asks_to_commit(sql: &str) -> bool {
    let mut words = Words(skip_empty_statements(sql));
    let first = words.next().unwrap_or_default();
    let second = words.next().unwrap_or_default();
    is(first, &["commit", "end"]) || is(first, &["prepare"]) && is(second, &["transaction"])
}

/// Whether `sql` prepares a statement that outlives its transaction, and that this module does not know.
pub(super) fn prepares(sql: &str) -> bool {
    sql.split(';').any(|part| {
        let mut words = Words(skip_empty_statements(part));
        let is_prepare = words.next().is_some_and(|word| is(word, &["prepare"]));
        is_prepare && !words.next().is_some_and(|word| is(word, &["transaction"]))
    })
}

/// Whether `sql` may change how the session finds the names in later statements: by its settings, or by
/// temporary tables, which hide others of the same name. `changed` says that an earlier statement did, which
/// this one may take back.
pub(super) fn changes_names(sql: &str, changed: bool) -> bool {
    let calls_set_config = contains(sql, "set_config");
    calls_set_config || sql.split(';').any(|part| begins_with_change(part, changed))
}

fn begins_with_change(sql: &str, changed: bool) -> bool {
    let mut words = Words(skip_empty_statements(sql));
    match words.next() {
        Some(first) if is(first, &["set"]) => {
            let mut names = words.skip_while(|word| is(word, &["local", "session"]));
            let changing = &["search_path", "schema", "role", "authorization"];
            names.next().is_some_and(|name| is(name, changing))
        }
        Some(first) => changed && is(first, TAKING_BACK) || makes_temporary(sql, first, words),
        None => false,
    }
}

/// What can take back a change of the names. `commit` drops tables that were made with `on commit drop`.
const TAKING_BACK: &[&str] = &[
    "reset", "discard", "rollback", "abort", "commit", "end", "drop", "alter",
];

/// Whether a query has `into temporary` or its short form, not in a text, nor to name a table to insert into.
fn selects_into_temporary(sql: &str) -> bool {
    let (mut last, mut in_text) = ("", false);
    let mut words = sql.split_ascii_whitespace().peekable();
    while let Some(word) = words.next() {
        let quotes = word.bytes().filter(|byte| *byte == b'\'').count();
        in_text ^= quotes % 2 == 1;
        let is_temporary = |next: &&str| is(next, &["temp", "temporary"]);
        if is(word, &["into"])
            && !in_text
            && !is(last, &["insert", "merge"])
            && words.peek().is_some_and(is_temporary)
        {
            return true;
        }
        last = word;
    }
    false
}

fn contains(text: &str, word: &str) -> bool {
    let mut parts = text.as_bytes().windows(word.len());
    parts.any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

fn is(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// The words of a text, up to the first thing that is neither a word nor white space nor a comment.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = skip_space(self.0);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()));
        let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// `sql` from its first statement that is not empty, without leading parentheses.
fn skip_empty_statements(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = skip_space(rest);
        match rest.strip_prefix([';', '(']) {
            Some(after) => rest = after,
            None => return rest,
        }
    }
}

/// `text` without leading white space and comments.
fn skip_space(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
        if let Some(comment) = rest.strip_prefix("--") {
            let end = comment.find(['\n', '\r']);
            rest = &comment[end.unwrap_or(comment.len())..];
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
    use super::*;

    #[test]
    fn the_first_words_of_a_statement_give_its_kind() {
        for sql in [
            "select 1",
            " ( SELECT 1) union select 2",
            "-- call\nwith x as (select 1) table x",
            "-- call\rselect 1",
            "/* a /* b */ call */ values (1)",
            "select'x'",
            "table t",
            "show all",
        ] {
            assert_eq!(StatementKind::of(sql), StatementKind::Query, "{sql}");
        }
        for sql in [
            "call pay()",
            "/**/CALL pay()",
            "; call pay()",
            ";;\t;call pay()",
            "-- select\rcall pay()",
            "do $$begin end$$",
            "Do\n'x'",
            "\x0b\x0ccall pay()",
            "vacuum",
            "analyze t",
            "checkpoint",
            "cluster t",
            "reindex table t",
            "alter table t detach partition p concurrently",
            "create unique index concurrently on t (n)",
            "create /* a */ database d",
            "drop index concurrently i",
            "drop subscription s",
            "create tablespace s location '/s'",
            "create type t as enum ('a')",
        ] {
            assert_eq!(StatementKind::of(sql), StatementKind::MayCommit, "{sql}");
        }
        for sql in [
            "",
            "--",
            "/*",
            ";",
            "insert into t values (1)",
            "selection",
            "sélection",
            "selecté",
            "call_me",
            "callé()",
            "create table t (n int8)",
            "drop index i",
        ] {
            assert_eq!(StatementKind::of(sql), StatementKind::Other, "{sql}");
        }
    }

    #[test]
    fn what_begins_something_on_a_connection_or_changes_its_session_is_not_shared() {
        for (sql, refused) in [
            ("begin", "begin"),
            ("; BEGIN", "begin"),
            ("-- x\rbegin", "begin"),
            ("start transaction", "start"),
            ("commit", "commit"),
            ("end", "end"),
            ("rollback to s", "rollback"),
            ("abort", "abort"),
            ("savepoint s", "savepoint"),
            ("release s", "release"),
            ("lock table t", "lock"),
            ("set search_path to x", "set"),
            ("SET/**/ROLE x", "set"),
            ("reset all", "reset"),
            ("discard all", "discard"),
            ("load 'x'", "load"),
            ("prepare s as select 1", "prepare"),
            ("execute s", "execute"),
            ("deallocate all", "deallocate"),
            ("declare c cursor with hold for select 1", "declare"),
            ("fetch c", "fetch"),
            ("move c", "move"),
            ("close c", "close"),
            ("copy t from stdin", "copy"),
            ("listen news", "listen"),
            ("unlisten *", "unlisten"),
            ("create temp table t (n int8)", "create temporary"),
            (
                "create local temporary table t (n int8)",
                "create temporary",
            ),
            ("create global temp table t (n int8)", "create temporary"),
            (
                "create or replace temp view v as select 1",
                "create temporary",
            ),
            ("create table pg_temp.t (n int8)", "create temporary"),
            (
                "with x as (select 1) select * INTO temp t from x",
                "create temporary",
            ),
        ] {
            assert_eq!(begins_with_copy(sql), refused == "copy", "{sql}");
            match check_shared(sql) {
                Err(Error::NotShared { word, .. }) => assert_eq!(word, refused, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
        for sql in [
            "",
            "select set_config('work_mem', '7MB', true)",
            "insert into t values (1)",
            "settle",
            "with begin as (select 1) table begin",
            "notify news",
            "vacuum",
            "call pay()",
            "create table temp (n int8)",
            "create or replace view v as select 1",
            "select * from t where s = 'copied into temp folder'",
            "with x as (select 1) insert into temp select * from x",
        ] {
            assert!(check_shared(sql).is_ok(), "{sql}");
        }
    }

    #[test]
    fn what_says_that_it_changes_the_session_is_told_from_what_does_not() {
        for sql in [
            "set work_mem = '7MB'",
            "select 1; SET work_mem = '7MB'",
            "select ';'; listen news",
            "select pg_catalog.SET_CONFIG('work_mem', '7MB', false)",
            "select pg_advisory_lock(1)",
            "select 1 into temp t",
            "create temporary table t (n int8)",
            "prepare s as select 1",
            "declare c cursor with hold for select 1",
            "do $$begin end$$",
            "select 1; call change()",
            "commit",
        ] {
            assert!(changes_session(sql), "{sql}");
        }
        for sql in [
            "",
            "select 1",
            "insert into t values (1); update t set n = 2",
            "with t as (select 1) table t",
            "create table t (n int8)",
        ] {
            assert!(!changes_session(sql), "{sql}");
        }
    }

    #[test]
    fn what_asks_to_commit_is_told_from_what_does_not() {
        for sql in [
            "commit",
            "; End work",
            "/**/COMMIT prepared 'x'",
            "prepare Transaction 'x'",
        ] {
            assert!(asks_to_commit(sql) && !begins_transaction(sql), "{sql}");
        }
        assert!(begins_transaction("-- all of it\n; BEGIN; commit"));
        for sql in [
            "",
            "committed",
            "prepare transactions as select 1",
            "rollback",
            "transaction",
        ] {
            assert!(!asks_to_commit(sql), "{sql}");
        }
    }

    #[test]
    fn what_prepares_a_statement_is_told_from_what_does_not() {
        for sql in [
            "prepare s as select 1",
            "select 1; /**/ PREPARE s (int8) as select $1",
        ] {
            assert!(prepares(sql), "{sql}");
        }
        for sql in ["", "prepared", "Prepare transaction 'x'", "execute s"] {
            assert!(!prepares(sql), "{sql}");
        }
    }

    #[test]
    fn what_changes_the_names_of_a_session_is_told_from_what_does_not() {
        for sql in [
            "set search_path to x",
            "SET LOCAL Search_Path = x",
            "set schema 'x'",
            "set role x",
            "set session authorization x",
            "set session role x",
            "select 1; set role x",
            "select pg_catalog.set_config('search_path', $1, true)",
            "create temp table t (n int8)",
            "Create or replace temporary view v as select 1",
            "create table pg_temp.t (n int8)",
            "select 1; create local temp table t as select 1",
            "select n INTO Temporary t from u",
            "with x as (select 1) select * into temp t from x",
        ] {
            assert!(changes_names(sql, false), "{sql}");
        }
        let taken_back = [
            "reset all",
            "discard all",
            "rollback to s",
            "commit",
            "drop table t",
            "alter table t rename to u",
        ];
        for sql in taken_back {
            assert!(
                changes_names(sql, true) && !changes_names(sql, false),
                "{sql}"
            );
        }
        for sql in [
            "",
            "set work_mem = '7MB'",
            "select role from users",
            "update users set role = $1",
            "insert into t values (1)",
            "insert into temp values (1)",
            "create table temp (n int8)",
            "select temp from t",
            "select n into temperatures from t",
        ] {
            assert!(!changes_names(sql, true), "{sql}");
        }
    }
}
