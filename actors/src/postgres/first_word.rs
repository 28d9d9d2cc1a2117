//! What a statement is, as its first words say.
//!
//! The server parses a statement; this module only reads its tokens (`lexer`). So it knows what a statement
//! begins with, and not what the functions do that the statement calls.

use super::error::Error;
use super::lexer::{Token, Tokens};

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

const CHANGES_OF_ROWS: &[&str] = &["insert", "update", "delete", "merge"];

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
        let (first, tokens) = first_statement(sql);
        let mut words = tokens.map_while(Token::word);
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
    let (first, _) = first_statement(sql);
    is(first, QUERIES) || is(first, CHANGES_OF_ROWS)
}

/// Where the data of a `COPY` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyFrom {
    Program,
    Server,
}

/// Where the data of `sql` comes from, if it is a `COPY` between this program and the server.
pub(super) fn copy_from(sql: &str) -> Option<CopyFrom> {
    let (first, mut tokens) = first_statement(sql);
    if !is(first, &["copy"]) {
        return None;
    }
    let (mut depth, mut is_behind_dot) = (0_usize, false);
    let from = tokens.by_ref().find_map(|token| {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth = depth.saturating_sub(1),
            // Behind a dot, any word is a name.
            Token::Word(word) if depth == 0 && !is_behind_dot => {
                if is(word, &["from"]) {
                    return Some(CopyFrom::Program);
                }
                if is(word, &["to"]) {
                    return Some(CopyFrom::Server);
                }
            }
            _ => {}
        }
        is_behind_dot = token == Token::Symbol('.');
        None
    });
    // Otherwise it is a file or a program of the server. The server takes either word both ways.
    let other_side = tokens.next().and_then(Token::word).unwrap_or_default();
    from.filter(|_| is(other_side, &["stdin", "stdout"]))
}

/// Whether `sql` begins with the begin of a transaction.
pub(super) fn begins_transaction(sql: &str) -> bool {
    is(first_statement(sql).0, &["begin", "start"])
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
    let (first, tokens) = first_statement(sql);
    let refused = NOT_SHARED.iter().find_map(|(refused, instead)| {
        let word = refused.iter().find(|word| is(first, &[word]))?;
        Some((*word, *instead))
    });
    match refused {
        Some((word, instead)) => Err(Error::NotShared { word, instead }),
        None if makes_temporary(first, tokens.clone()) => Err(Error::NotShared {
            word: "create temporary",
            instead: SESSION,
        }),
        None if updates_settings(first, tokens) => Err(Error::NotShared {
            word: "update pg_settings",
            instead: SESSION,
        }),
        None => Ok(()),
    }
}

/// Whether `sql`, which may be several statements, may change the session or lock something for it, as its
/// words say: unless each of them works on rows and names nothing of that kind.
pub(super) fn may_change_session(sql: &str) -> bool {
    let is_change = |token| match token {
        Token::Word(name) | Token::Name(name) => {
            contains(name, "set_config") || contains(name, "advisory")
        }
        Token::Text | Token::Symbol(_) => false,
    };
    Tokens::statements(sql).any(|statement| {
        let (first, mut tokens) = begin(statement);
        let works_on_rows = first.is_empty() || is(first, QUERIES) || is(first, CHANGES_OF_ROWS);
        !works_on_rows
            || makes_temporary(first, tokens.clone())
            || updates_settings(first, tokens.clone())
            || tokens.any(is_change)
    })
}

/// Whether a statement that begins with `first`, behind which `tokens` follow, makes something temporary.
fn makes_temporary(first: &str, mut tokens: Tokens<'_>) -> bool {
    let is_option = |word: &str| is(word, &["or", "replace", "global", "local"]);
    let is_temporary = |word: &str| is(word, &["temp", "temporary"]);
    if is(first, &["create"]) {
        let words = tokens.clone().map_while(Token::word);
        let mut options = words.skip_while(|word| is_option(word));
        options.next().is_some_and(is_temporary)
            || names_temporary(tokens.take_while(|token| *token != Token::Symbol('(')))
    } else if is(first, &["explain"]) {
        // It may run what it explains.
        tokens.any(|token| token.word().is_some_and(is_temporary))
    } else if is(first, &["select", "with"]) {
        let mut last = first;
        while let Some(token) = tokens.next() {
            let word = token.word().unwrap_or_default();
            if is(word, &["into"]) && !is(last, &["insert", "merge"]) {
                let words = tokens.clone().map_while(Token::word);
                let mut options = words.skip_while(|word| is_option(word));
                if options.next().is_some_and(is_temporary)
                    || names_temporary(tokens.clone().take(2))
                {
                    return true;
                }
            }
            last = word;
        }
        false
    } else {
        false
    }
}

/// Whether a statement that begins with `first`, behind which `tokens` follow, updates the view of the settings,
/// which sets them for the session.
fn updates_settings(first: &str, mut tokens: Tokens<'_>) -> bool {
    let mut updates = is(first, &["update"]);
    let may_update = updates || is(first, &["with", "explain"]);
    may_update
        && tokens.any(|token| match token {
            Token::Word(name) | Token::Name(name) => {
                updates |= is(name, &["update"]);
                updates && is(name, &["pg_settings"])
            }
            Token::Text | Token::Symbol(_) => false,
        })
}

/// Whether `tokens` name something in the schema of temporary tables.
fn names_temporary<'a>(tokens: impl Iterator<Item = Token<'a>>) -> bool {
    let mut tokens = tokens.peekable();
    while let Some(token) = tokens.next() {
        if let Token::Word(name) | Token::Name(name) = token
            && name.get(..7).is_some_and(|name| is(name, &["pg_temp"]))
            && tokens.peek() == Some(&Token::Symbol('.'))
        {
            return true;
        }
    }
    false
}

/// Whether `sql` begins with the commit of a transaction.
pub(super) fn asks_to_commit(sql: &str) -> bool {
    let (first, mut tokens) = first_statement(sql);
    let second = tokens.next().and_then(Token::word).unwrap_or_default();
    is(first, &["commit", "end"]) || is(first, &["prepare"]) && is(second, &["transaction"])
}

/// Whether `sql` prepares a statement that outlives its transaction, and that this module does not know.
pub(super) fn prepares(sql: &str) -> bool {
    Tokens::statements(sql).any(|statement| {
        let (first, mut tokens) = begin(statement);
        let second = tokens.next().and_then(Token::word).unwrap_or_default();
        is(first, &["prepare"]) && !is(second, &["transaction"])
    })
}

/// Whether `sql` may change how the session finds the names in later statements: by its settings, or by
/// temporary tables, which hide others of the same name. `changed` says that an earlier statement did, which
/// this one may take back.
pub(super) fn changes_names(sql: &str, changed: bool) -> bool {
    let calls_set_config = contains(sql, "set_config");
    calls_set_config
        || Tokens::statements(sql).any(|statement| begins_with_change(statement, changed))
}

fn begins_with_change(statement: Tokens<'_>, changed: bool) -> bool {
    let (first, tokens) = begin(statement);
    if is(first, &["set"]) {
        let mut names = tokens
            .map_while(Token::word)
            .skip_while(|word| is(word, &["local", "session"]));
        let changing = &["search_path", "schema", "role", "authorization"];
        return names.next().is_some_and(|name| is(name, changing));
    }
    changed && is(first, TAKING_BACK)
        || makes_temporary(first, tokens.clone())
        || updates_settings(first, tokens)
}

/// What can take back a change of the names. `commit` drops tables that were made with `on commit drop`.
const TAKING_BACK: &[&str] = &[
    "reset", "discard", "rollback", "abort", "commit", "end", "drop", "alter",
];

/// The first word of the first statement of `sql` that is not empty, and what follows it.
fn first_statement(sql: &str) -> (&str, Tokens<'_>) {
    let mut tokens = Tokens::new(sql);
    loop {
        match tokens.next() {
            Some(Token::Symbol(';' | '(')) => {}
            first => return (first.and_then(Token::word).unwrap_or_default(), tokens),
        }
    }
}

/// The first word of a statement, and what follows it.
fn begin(mut statement: Tokens<'_>) -> (&str, Tokens<'_>) {
    loop {
        match statement.next() {
            Some(Token::Symbol('(')) => {}
            first => return (first.and_then(Token::word).unwrap_or_default(), statement),
        }
    }
}

fn contains(text: &str, word: &str) -> bool {
    let mut parts = text.as_bytes().windows(word.len());
    parts.any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

fn is(word: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_copy_say_where_its_data_comes_from() {
        for sql in [
            "copy t from stdin",
            "; COPY t (a, \"to\") FROM STDIN with (format csv)",
            "copy s.to from /* to */ stdin where a = 1",
            "copy \"a to stdout\".\"to\" from stdin",
            "copy binary t from stdout",
        ] {
            assert_eq!(copy_from(sql), Some(CopyFrom::Program), "{sql}");
        }
        for sql in [
            "copy t to stdout",
            "copy (select n from t) to stdout",
            "copy (insert into t (n) select ' from stdin' from u returning n) To StdOut",
            "copy s . from (a) to stdout (delimiter 'x')",
        ] {
            assert_eq!(copy_from(sql), Some(CopyFrom::Server), "{sql}");
        }
        for sql in [
            "",
            "copy",
            "copy t",
            "copy t from",
            "copy t from 'stdin'",
            "copy t to program 'cat'",
            "copy (select 1 from stdin)",
            "select 'copy t to stdout' from stdin",
        ] {
            assert_eq!(copy_from(sql), None, "{sql}");
        }
    }

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
            ("update pg_settings set setting = 1", "update pg_settings"),
            (
                "with x as (UPDATE only pg_catalog.\"pg_settings\" set setting = 1) table x",
                "update pg_settings",
            ),
            ("select 1 into pg_temp.t", "create temporary"),
            ("select 1 into/**/local temporary t", "create temporary"),
            ("select /* don't */ 1 into temp t", "create temporary"),
            ("create table \"pg_temp\".t (n int8)", "create temporary"),
            (
                "explain analyze create temp table t as select 1",
                "create temporary",
            ),
        ] {
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
            "create function f() returns int8 language sql set search_path = app, pg_temp as 'select 1'",
            "/* pg_temp.t */ create table t (n int8)",
            "update t set s = 'pg_settings'",
            "with x as (table pg_settings) select * from x for update",
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
            "/* a; b */ set role admin",
            "select 1 -- x; y\n; set role admin",
            "create function f() returns int language sql as 'select 1'",
            "select \"set_config\"('work_mem', '7MB', false)",
            "select 1 into pg_temp.t",
            "explain analyze create temp table t as select 1",
            "(select 1); listen news",
            "update pg_settings set setting = 1",
        ] {
            assert!(may_change_session(sql), "{sql}");
        }
        for sql in [
            "",
            "select 1",
            "insert into t values (1); update t set n = 2",
            "with t as (select 1) table t",
            "select 'set_config; set role admin' -- ; listen news",
            "select temp from t; (values (1));",
            "insert into temp values ('temp')",
        ] {
            assert!(!may_change_session(sql), "{sql}");
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
            "/* a; b */ prepare s as select 1",
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
            "/* a; b */ set role x",
            "update pg_settings set setting = 'x' where name = 'search_path'",
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
