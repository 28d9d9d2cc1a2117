//! Reads header values with parameters: `Content-Type` of a form, and `Content-Disposition` of its parts.
//!
//! `multer` searches `Content-Disposition` for `filename` anywhere, and takes a name that it cannot read for no name: a
//! file with a malformed name would be a text. Here, what is malformed is refused, and so is what comes twice: programs
//! before the server, such as a filter, may read the other one.

/// Why a value is refused. The text is for the caller.
pub(super) type Fault = &'static str;

/// The type of a value, in lower case, and its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) kind: String,
    parameters: Vec<(String, String)>,
}

/// What a part says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Disposition {
    /// The name of the part.
    pub(super) name: String,
    /// The name of the file, if it is one.
    pub(super) file_name: Option<String>,
}

impl Value {
    /// Reads `type; name=value; name="value"`.
    pub(super) fn parse(value: &[u8]) -> Result<Self, Fault> {
        let value = str::from_utf8(value).map_err(|_| "it is not UTF-8")?;
        let end = value.find(';').unwrap_or(value.len());
        let (kind, mut rest) = value.split_at(end);
        let mut parameters: Vec<(String, String)> = Vec::new();
        while let Some(after) = trim(rest).strip_prefix(';') {
            rest = trim(after);
            // A semicolon at the end does no harm.
            if rest.is_empty() {
                break;
            }
            let (name, text) = rest.split_once('=').ok_or("a parameter has no value")?;
            if name.is_empty() || !name.bytes().all(is_of_name) {
                return Err("a parameter has no name");
            }
            let name = name.to_ascii_lowercase();
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err("a parameter comes twice");
            }
            let text = match text.strip_prefix('"') {
                Some(quoted) => {
                    let (text, after) = unquote(quoted)?;
                    rest = after;
                    text
                }
                None => {
                    let end = text.find([';', ' ', '\t', '"']).unwrap_or(text.len());
                    rest = &text[end..];
                    text[..end].to_owned()
                }
            };
            parameters.push((name, text));
        }
        match trim(rest) {
            "" => Ok(Self {
                kind: trim(kind).to_ascii_lowercase(),
                parameters,
            }),
            _ => Err("there is text after a parameter"),
        }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        all.find(|(other, _)| other == name)
            .map(|(_, text)| text.as_str())
    }
}

impl Disposition {
    /// Reads `Content-Disposition`.
    pub(super) fn parse(value: &[u8]) -> Result<Self, Fault> {
        let value = Value::parse(value)?;
        if value.kind != "form-data" {
            return Err("it is not form-data");
        }
        let name = value.parameter("name").filter(|name| !name.is_empty());
        // RFC 7578 has no filename*, but clients send it: .NET beside a filename that is an encoded word, old urllib3 alone.
        // A plain filename comes first: a filter before the server may read that alone.
        let plain = value.parameter("filename");
        let is_plain = |name: &&str| !(name.starts_with("=?") && name.ends_with("?="));
        let file_name = match (plain.filter(is_plain), value.parameter("filename*")) {
            (None, Some(extended)) => Some(decode(extended)?),
            _ => plain.map(str::to_owned),
        };
        Ok(Self {
            name: name.ok_or("the part has no name")?.to_owned(),
            file_name,
        })
    }
}

/// Decodes what RFC 8187 calls an extended value, such as `UTF-8''na%C3%AFve.txt`.
fn decode(extended: &str) -> Result<String, Fault> {
    const MALFORMED: Fault = "filename* is not as in RFC 8187";
    let mut parts = extended.splitn(3, '\'');
    let (Some(charset), Some(_language), Some(text)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(MALFORMED);
    };
    if !charset.eq_ignore_ascii_case("utf-8") {
        return Err("filename* is not in UTF-8");
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = str::from_utf8(&digits).map_err(|_| MALFORMED)?;
                let is_hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let byte = u8::from_str_radix(digits, 16)
                    .ok()
                    .filter(|_| is_hexadecimal);
                bytes.push(byte.ok_or(MALFORMED)?);
                after
            }
            (b'%', _) => return Err(MALFORMED),
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    String::from_utf8(bytes).map_err(|_| MALFORMED)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// What RFC 9110 calls a token.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The text until the closing quotation mark, and what follows. Browsers do not escape backslashes, so one means itself
/// except before a quotation mark or another one.
fn unquote(quoted: &str) -> Result<(String, &str), Fault> {
    let mut text = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((text, &quoted[at + 1..])),
            '\\' => {
                let escaped = characters.next_if(|(_, next)| ['"', '\\'].contains(next));
                text.push(escaped.map_or('\\', |(_, escaped)| escaped));
            }
            other => text.push(other),
        }
    }
    Err("a quotation mark is missing")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_as_clients_write_them() {
        for (sent, name, file_name) in [
            // Browsers and curl; .NET; urllib3; Go; two that nobody writes.
            (r#"form-data; name="a"; filename="b c.txt""#, "a", "b c.txt"),
            (
                "form-data; name=a; filename=\"=?utf-8?B?c8WCLnR4dA==?=\"; filename*=utf-8''s%C5%82.txt",
                "a",
                "sł.txt",
            ),
            (
                "form-data; name=a; filename=b.txt; filename*=iso-8859-1''c.txt",
                "a",
                "b.txt",
            ),
            (
                "form-data; name=a; filename*=UTF-8'pl'50%25%20.txt",
                "a",
                "50% .txt",
            ),
            (
                r#"form-data; name="a\"b"; filename="c\\d.txt""#,
                r#"a"b"#,
                r"c\d.txt",
            ),
            (
                r#"form-data; name="a\b"; filename="ü;=.txt""#,
                r"a\b",
                "ü;=.txt",
            ),
            (
                r#"Form-Data;NAME="x; filename=y" ; Filename="z";"#,
                "x; filename=y",
                "z",
            ),
        ] {
            let found = Disposition::parse(sent.as_bytes()).unwrap();
            assert_eq!(found.name, name);
            assert_eq!(found.file_name.as_deref(), Some(file_name), "{sent}");
        }
        let field = Disposition::parse(b"form-data; name=\"filename\"").unwrap();
        assert_eq!((field.name.as_str(), field.file_name), ("filename", None));
    }

    #[test]
    fn what_is_malformed_or_comes_twice_is_refused() {
        for sent in [
            &b""[..],
            b"form-data",
            b"form-data;;",
            b"form-data; name",
            b"form-data; name=",
            b"form-data; name=\"\"",
            b"form-data; filename=\"a\"",
            b"attachment; name=\"a\"",
            b"name=\"a\"",
            b"form-data; name=\"a",
            b"form-data; name=\"a\\\"",
            b"form-data; name=\"a\"b",
            b"form-data; name=a b",
            b"form-data; name=a\"b\"",
            b"form-data; name = \"a\"",
            b"form-data; name=\"a\"; name=\"b\"",
            b"form-data; name=\"a\"; filename=\"b\"; FILENAME=\"c\"",
            b"form-data; name=\"a\"; filename*=b.txt",
            b"form-data; name=\"a\"; filename*=latin1''b.txt",
            b"form-data; name=\"a\"; filename*=utf-8''%c3.txt",
            b"form-data; name=\"a\"; filename*=utf-8''b%+1.txt",
            b"form-data; name=\"a\"; filename*=utf-8''b%2",
            b"form-data; name=\"a\"; filename=\"\xff\"",
            b"form-data; name=\"\xc0\xae\"",
            b"form-data; name=\"a\"; file name=\"b\"",
        ] {
            Disposition::parse(sent).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read(name in "[^\u{0}]{1,40}", file_name in "[^\u{0}]{0,40}") {
            let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            let (quoted, quoted_file) = (quote(&name), quote(&file_name));
            let sent = format!("form-data; name=\"{quoted}\"; filename=\"{quoted_file}\"");
            let found = Disposition::parse(sent.as_bytes());
            prop_assert_eq!(found, Ok(Disposition { name, file_name: Some(file_name) }));
        }
    }
}
