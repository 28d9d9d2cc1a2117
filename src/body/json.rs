//! Parses the JSON of request bodies. Errors name the members of the body, and no type of the code.

use memchr::{memchr, memchr2, memchr3};
use serde::de::value::Error as NoValue;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, Visitor};
use serde::forward_to_deserialize_any;

use crate::problem::{Problem, ProblemKind};

/// The longest string in a JSON body, in bytes. Strings are names and ids.
const JSON_STRING_MAX: usize = 4096;

/// Parses a JSON body, which is an object. serde would take a list for a struct, too.
///
/// # Errors
/// 400 if the body is not JSON. 422 if it has another form, or if a string in it is longer than 4 KiB. The
/// parser's errors quote strings with escapes, so a long string would need many times its memory.
pub fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    read_json_with_lists(body, None)
}

/// As [`read_json`]. The strings in lists that are members named `lists` may have any length: `T` must not give them to
/// the parser's errors.
///
/// # Errors
/// As [`read_json`].
pub fn read_json_with_lists<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    lists: Option<&str>,
) -> Result<T, Problem> {
    let invalid = |detail: String| Problem::new(ProblemKind::InvalidInput, detail);
    if has_string_beyond(body, JSON_STRING_MAX, lists) {
        return Err(invalid(format!(
            "a string in the body is longer than {JSON_STRING_MAX} bytes"
        )));
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<IgnoredAny>(body)?;
        return Err(invalid(format!(
            "the JSON does not have the expected form: expected a JSON object{}",
            members::<T>()
        )));
    }
    Ok(serde_json::from_slice(body)?)
}

/// The members that `T` has as an object, in words.
fn members<'a, T: Deserialize<'a>>() -> String {
    let mut members = &[][..];
    // This always fails, as there is no value.
    T::deserialize(Members(&mut members)).ok();
    let quoted = members.iter().map(|member| format!("`{member}`"));
    match &*quoted.collect::<Vec<_>>() {
        [] => String::new(),
        [member] => format!(" with the member {member}"),
        quoted => format!(" with the members {}", quoted.join(", ")),
    }
}

/// Takes note of the members that a type asks for.
struct Members<'m>(&'m mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Members<'_> {
    type Error = NoValue;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = members;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Whether a string in `json` has more than `bytes_max` bytes between its quotes. Those in lists of the name `lists` do
/// not count.
fn has_string_beyond(mut json: &[u8], bytes_max: usize, lists: Option<&str>) -> bool {
    while let Some(start) = memchr(b'"', json) {
        let rest = &json[start + 1..];
        let length = string_length(rest);
        if length > bytes_max {
            return true;
        }
        json = rest.get(length + 1..).unwrap_or_default();
        if lists.is_some_and(|name| name.as_bytes() == &rest[..length.min(rest.len())]) {
            json = after_list(json);
        }
    }
    false
}

/// How many bytes of a string there are before its closing quote, or before the end. `text` begins after the first quote.
pub(crate) fn string_length(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let left = text.get(at..).unwrap_or_default();
        match memchr2(b'"', b'\\', left) {
            // The byte after a backslash belongs to the string.
            Some(found) if left[found] == b'\\' => at += found + 2,
            found => return at + found.unwrap_or(left.len()),
        }
    }
}

/// What follows the value of a member, if it is a list; `json` begins after the member's name.
fn after_list(json: &[u8]) -> &[u8] {
    let value = json.trim_ascii_start().strip_prefix(b":");
    let list = value.and_then(|value| value.trim_ascii_start().strip_prefix(b"["));
    let Some(mut rest) = list else { return json };
    let mut depth = 1u32;
    while depth > 0 {
        let Some(at) = memchr3(b'[', b']', b'"', rest) else {
            return &[];
        };
        let mark = rest[at];
        rest = &rest[at + 1..];
        match mark {
            b'[' => depth = depth.saturating_add(1),
            b']' => depth -= 1,
            _ => rest = rest.get(string_length(rest) + 1..).unwrap_or_default(),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn texts_are_measured_between_their_quotes() {
        let cases: [(&str, usize, bool); 10] = [
            ("", 0, false),
            (r#""""#, 0, false),
            (r#""ab""#, 2, false),
            (r#""abc""#, 2, true),
            (r#"{"a":[1,2,3,"b"],"c":"d"}"#, 1, false),
            (r#"{"a":[1,2,3,"b"],"cc":"d"}"#, 1, true),
            (r#""\"""#, 2, false),
            (r#""\\","abc""#, 2, true),
            (r#""abc"#, 2, true),
            (r#""a\"#, 3, false),
        ];
        for (json, bytes_max, is_beyond) in cases {
            assert_eq!(
                has_string_beyond(json.as_bytes(), bytes_max, None),
                is_beyond,
                "{json}"
            );
        }
    }

    #[test]
    fn texts_in_lists_of_a_name_may_be_long() {
        for (json, is_beyond) in [
            (r#"{"data":["longer"]}"#, false),
            (r#"{"data" : [[1,"long]er"],["long\"er"]],"a":"b"}"#, false),
            (r#"{"data":["longer"],"a":"longer"}"#, true),
            (r#"{"data":"longer"}"#, true),
            (r#"{"a":"data","b":["longer"]}"#, true),
            (r#"{"dat":["longer"]}"#, true),
            (r#"{"data":["longer"#, false),
            (r#"{"data":[["longer"]"#, false),
        ] {
            let found = has_string_beyond(json.as_bytes(), 4, Some("data"));
            assert_eq!(found, is_beyond, "{json}");
        }
    }

    #[test]
    fn a_json_body_is_an_object() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Options {
            _ready: bool,
        }
        read_json::<Options>(b" {} ").unwrap();
        for body in ["[]", "[true]", "null", " 5"] {
            let problem = read_json::<Options>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::InvalidInput, "{body}");
            let expected = "expected a JSON object with the member `_ready`";
            assert!(problem.detail.ends_with(expected), "{body}: {problem}");
        }
        for body in ["", "[", "nothing", "[] []"] {
            let problem = read_json::<Options>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::MalformedRequest, "{body}");
        }
    }

    #[test]
    fn errors_name_no_type_of_the_code() {
        #[derive(Debug, Deserialize)]
        struct Outer {
            _inner: Option<Inner>,
            _count: Option<u32>,
            _names: Option<Vec<String>>,
        }
        #[derive(Debug, Deserialize)]
        struct Inner {
            _seconds: f64,
            _choice: Option<Choice>,
        }
        #[derive(Debug, Deserialize)]
        enum Choice {}
        for (body, expected) in [
            (
                "{\"_inner\": 5}",
                "integer `5`, expected an object at line 1",
            ),
            (
                "{\"_inner\": []}",
                "invalid length 0, expected an object at line 1",
            ),
            (
                "{\"_inner\": {\"_seconds\": \"a\"}}",
                "string \"a\", expected a number at line 1",
            ),
            (
                "{\"_count\": -1}",
                "expected a whole number that is not negative at line 1",
            ),
            ("{\"_names\": 5}", "expected a list at line 1"),
        ] {
            let detail = read_json::<Outer>(body.as_bytes()).unwrap_err().detail;
            assert!(detail.contains(expected), "{body}: {detail}");
        }
    }

    #[test]
    fn a_misplaced_text_costs_no_more_than_a_short_error() {
        let body = format!(r#"{{"shape":"{}"}}"#, "\u{7f}".repeat(1 << 20));
        let problem = read_json::<Vec<u8>>(body.as_bytes()).unwrap_err();
        assert!(problem.detail.len() < 100, "{}", problem.detail);
    }
}
