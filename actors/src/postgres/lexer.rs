//! The tokens of an SQL text, as far as it must be known where statements, comments and texts begin and end.
//!
//! It follows the rules of the server's lexer for `standard_conforming_strings = on`, the default. It never
//! fails: what has no end lasts until the end of the text.

/// A part of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key word, or a name without quotes.
    Word(&'a str),
    /// A name in double quotes, without the outer ones.
    Name(&'a str),
    /// A text, of any form.
    Text,
    /// Any other character.
    Symbol(char),
}

impl<'a> Token<'a> {
    /// The word, if it is one.
    pub(super) fn word(self) -> Option<&'a str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Name(_) | Self::Text | Self::Symbol(_) => None,
        }
    }
}

/// The tokens of a text.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a str) -> Self {
        Self(sql)
    }

    /// Splits a text into its statements, each without the semicolon behind it.
    pub(super) fn statements(sql: &'a str) -> impl Iterator<Item = Tokens<'a>> {
        let mut rest = Some(sql);
        std::iter::from_fn(move || {
            let statement = rest?;
            let mut tokens = Tokens(statement);
            let has_end = tokens.any(|token| token == Token::Symbol(';'));
            rest = has_end.then_some(tokens.0);
            let len = statement.len() - tokens.0.len() - usize::from(has_end);
            Some(Tokens(&statement[..len]))
        })
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    /// Skips what `quote` ends. Twice, it stands for itself. Returns what was skipped without the end.
    fn skip_quoted(&mut self, quote: char, has_escapes: bool) -> &'a str {
        let text = self.0;
        let mut characters = text.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            if has_escapes && character == '\\' {
                characters.next();
            } else if character == quote && characters.next_if(|(_, next)| *next == quote).is_none()
            {
                self.0 = &text[at + 1..];
                return &text[..at];
            }
        }
        self.take(text.len())
    }

    /// Skips a text in dollar quotes, if one begins here.
    fn skip_dollar_quoted(&mut self) -> bool {
        let Some(end_of_tag) = self.0[1..].find('$').map(|at| at + 2) else {
            return false;
        };
        let tag = &self.0[..end_of_tag];
        let mut name = tag[1..tag.len() - 1].chars();
        let begins_well = name
            .next()
            .is_none_or(|first| is_of_word(first) && !first.is_ascii_digit());
        if !begins_well || !name.all(is_of_word) {
            return false;
        }
        let text = &self.0[end_of_tag..];
        self.0 = text.find(tag).map_or("", |at| &text[at + tag.len()..]);
        true
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.0 = skip_space(self.0);
        let first = self.0.chars().next()?;
        if is_of_word(first) {
            // A dollar sign may stand within a name.
            let end = self.0.find(|c| !is_of_word(c) && c != '$');
            let word = self.take(end.unwrap_or(self.0.len()));
            let is_prefix = ["b", "e", "n", "x"]
                .iter()
                .any(|it| it.eq_ignore_ascii_case(word));
            if is_prefix && self.0.starts_with('\'') {
                self.take(1);
                self.skip_quoted('\'', word.eq_ignore_ascii_case("e"));
                return Some(Token::Text);
            }
            return Some(Token::Word(word));
        }
        if first == '$' && self.skip_dollar_quoted() {
            return Some(Token::Text);
        }
        self.take(first.len_utf8());
        Some(match first {
            '\'' => {
                self.skip_quoted('\'', false);
                Token::Text
            }
            '"' => Token::Name(self.skip_quoted('"', false)),
            symbol => Token::Symbol(symbol),
        })
    }
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()
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

    /// The tokens, each as a text: words as they are, names in double quotes, texts as `T`.
    fn tokens(sql: &str) -> Vec<String> {
        let text = |token| match token {
            Token::Word(word) => word.to_owned(),
            Token::Name(name) => format!("\"{name}\""),
            Token::Text => "T".to_owned(),
            Token::Symbol(symbol) => symbol.to_string(),
        };
        Tokens::new(sql).map(text).collect()
    }

    #[test]
    fn a_text_is_read_as_the_server_reads_it() {
        for (sql, expected) in [
            ("", ""),
            ("select'x'", "select T"),
            ("select 'it''s; ' a", "select T a"),
            (r"select E'\'; ' , e'a' b'1'", "select T , T T"),
            (r"select '\' a", "select T a"),
            ("select \"a\"\"b;\".c", "select \"a\"\"b;\" . c"),
            ("select $$;'$$ a, $t$ $$ $u$ $t$ b", "select T a , T b"),
            ("select $1, a$1$ from t$", "select $ 1 , a$1$ from t$"),
            ("a -- ; '\nb /* /* ' */ ; */ c", "a b c"),
            ("sélection('ü')", "sélection ( T )"),
            ("'no end", "T"),
            ("a $$ no end", "a T"),
            ("a /* no end", "a"),
            ("\"no end", "\"no end\""),
        ] {
            assert_eq!(tokens(sql).join(" "), expected, "{sql}");
        }
    }

    #[test]
    fn statements_end_with_their_own_semicolons() {
        let statements =
            |sql| -> Vec<usize> { Tokens::statements(sql).map(Iterator::count).collect() };
        assert_eq!(statements("a b; /* ; */ c ';' -- ;\n; d $$;$$"), [2, 2, 2]);
        assert_eq!(statements(""), [0]);
        assert_eq!(statements(";é;"), [0, 1, 0]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_to_its_end(sql in "[a;'\"$/*\\\\é\n -]{0,24}") {
            let statements: Vec<&str> = Tokens::statements(&sql).map(|tokens| tokens.0).collect();
            proptest::prop_assert_eq!(statements.join(";"), sql.as_str());
            for statement in statements {
                let has_end = Tokens::new(statement).any(|token| token == Token::Symbol(';'));
                proptest::prop_assert!(!has_end);
            }
        }
    }
}
