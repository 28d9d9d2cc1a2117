//! What a statement is, as its first words say.
//!
//! The server parses a statement; this module only reads its beginning, as the server's lexer does. So
//! it knows what a statement begins with, and not what the functions do that the statement calls.

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
            "vacuum",
            "reindex table t",
            "alter table t detach partition p concurrently",
            "create unique index concurrently on t (n)",
            "create /* a */ database d",
            "drop index concurrently i",
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
            "call_me",
            "create table t (n int8)",
            "drop index i",
        ] {
            assert_eq!(StatementKind::of(sql), StatementKind::Other, "{sql}");
        }
    }
}
