//! The texts of requests and answers. Nothing of a call's parameters or of an answer's result is read: their texts pass
//! through, and those of an answer are slices of its body.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::chain::rpc::Call;

/// The answer to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Member {
    /// The text of `result`.
    Result(Bytes),
    /// The text of `error`.
    Error(Bytes),
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answers {
    /// One for each call, in the order of the calls. `None` if it is missing.
    Each(Vec<Option<Member>>),
    /// The text of one error for the whole batch.
    Refused(Bytes),
}

/// Writes a request: a batch, if there are several calls. Their ids count from `first_id`.
pub(super) fn write<'a>(
    first_id: u64,
    calls: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>,
) -> Vec<u8> {
    let is_batch = calls.len() > 1;
    let mut text = Vec::with_capacity(256 * calls.len());
    if is_batch {
        text.push(b'[');
    }
    for (id, (method, params)) in (first_id..).zip(calls) {
        if id > first_id {
            text.push(b',');
        }
        text.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        text.extend_from_slice(id.to_string().as_bytes());
        text.extend_from_slice(br#","method":"#);
        text.extend_from_slice(quoted(method).as_bytes());
        text.extend_from_slice(br#","params":"#);
        // Some nodes refuse a call without parameters.
        text.extend_from_slice(if params.is_empty() { b"[]" } else { params });
        text.push(b'}');
    }
    if is_batch {
        text.push(b']');
    }
    text
}

/// What [`write`] takes of a call.
pub(super) fn parts(call: &Call) -> (&str, &[u8]) {
    (&call.method, &call.params)
}

fn quoted(method: &str) -> String {
    serde_json::Value::from(method).to_string()
}

#[derive(Deserialize)]
struct RawMember<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// A `null` is a value: the result of many calls.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

impl RawMember<'_> {
    /// Its place among the calls. `Ok(None)` if it has no id, as an error of a request that was not understood.
    fn place(&self, first_id: u64, count: usize) -> Result<Option<usize>, &'static str> {
        let id = self.id.map_or("null", RawValue::get);
        if id == "null" {
            return Ok(None);
        }
        // Some providers send numbers back as texts.
        let number = id.trim_matches('"').parse::<u64>().ok();
        let place = number.and_then(|number| number.checked_sub(first_id));
        let place = place.and_then(|place| usize::try_from(place).ok());
        match place.filter(|place| *place < count) {
            Some(place) => Ok(Some(place)),
            None => Err("an answer has an id that no call has"),
        }
    }

    fn member(&self, body: &Bytes) -> Result<Member, &'static str> {
        let slice = |text: &RawValue| body.slice_ref(text.get().as_bytes());
        match (self.result, self.error) {
            (_, Some(error)) if error.get().starts_with('{') => Ok(Member::Error(slice(error))),
            // Version 1 of JSON-RPC has both.
            (Some(result), Some(error)) if error.get() == "null" => {
                Ok(Member::Result(slice(result)))
            }
            (Some(result), None) => Ok(Member::Result(slice(result))),
            (_, Some(_)) => Err("an error is no object"),
            (None, None) => Err("an answer has neither a result nor an error"),
        }
    }
}

/// Reads the answer to a request of `count` calls whose ids count from `first_id`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(body: &Bytes, first_id: u64, count: usize) -> Result<Answers, &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    let text = text.trim_ascii();
    if text.starts_with('[') {
        let members: Vec<RawMember<'_>> =
            serde_json::from_str(text).map_err(|_| "it is no list of answers")?;
        if count == 1 {
            return Err("a list answers a single call");
        }
        let mut each = vec![None; count];
        for member in &members {
            let Some(place) = member.place(first_id, count)? else {
                return Err("an answer has no id");
            };
            if each[place].replace(member.member(body)?).is_some() {
                return Err("two answers have the same id");
            }
        }
        return Ok(Answers::Each(each));
    }
    let member: RawMember<'_> = serde_json::from_str(text).map_err(|_| "it is not JSON-RPC")?;
    let place = member.place(first_id, count)?;
    match member.member(body)? {
        Member::Error(error) if count > 1 => Ok(Answers::Refused(error)),
        _ if count > 1 => Err("one answer to a batch"),
        // An error without an id is of a request that was not understood. There was one.
        Member::Result(_) if place.is_none() => Err("an answer has no id"),
        member => Ok(Answers::Each(vec![Some(member)])),
    }
}

/// Looks whether a text, for example of an error, contains one of the secrets.
pub(super) fn contains_any(text: &[u8], secrets: &[String]) -> bool {
    let text = String::from_utf8_lossy(text);
    secrets.iter().any(|secret| text.contains(secret.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &'static str) -> Option<Member> {
        Some(Member::Result(Bytes::from_static(text.as_bytes())))
    }

    fn error(text: &'static str) -> Option<Member> {
        Some(Member::Error(Bytes::from_static(text.as_bytes())))
    }

    fn read_text(text: &'static str, count: usize) -> Result<Answers, &'static str> {
        read(&Bytes::from_static(text.as_bytes()), 7, count)
    }

    #[test]
    fn one_call_is_an_object_and_several_are_a_batch() {
        let one: [(&str, &[u8]); 1] = [("eth_call", br#"[{"to":"0x1"},"latest"]"#)];
        let text = String::from_utf8(write(7, one.into_iter())).unwrap();
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","id":7,"method":"eth_call","params":[{"to":"0x1"},"latest"]}"#
        );
        let two: [(&str, &[u8]); 2] = [("a\"b", b""), ("b", b"[1]")];
        let text = String::from_utf8(write(7, two.into_iter())).unwrap();
        assert_eq!(
            text,
            r#"[{"jsonrpc":"2.0","id":7,"method":"a\"b","params":[]},{"jsonrpc":"2.0","id":8,"method":"b","params":[1]}]"#
        );
    }

    #[test]
    fn results_pass_through_as_they_were_written_and_null_is_one() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":null}"#, "null"),
            (
                r#"{"id":7,"result": {"a" : 1.0e0,  "a":2} }"#,
                r#"{"a" : 1.0e0,  "a":2}"#,
            ),
            (
                "\n {\"result\":\"0x\",\"id\":\"7\",\"error\":null}\n",
                "\"0x\"",
            ),
            (
                r#"{"result":123456789012345678901234567890,"id":7}"#,
                "123456789012345678901234567890",
            ),
        ] {
            let each = vec![result(expected)];
            assert_eq!(read_text(text, 1), Ok(Answers::Each(each)), "{text}");
        }
        let body = Bytes::from_static(br#"{"id":7,"result":"0x1234"}"#);
        let Ok(Answers::Each(each)) = read(&body, 7, 1) else {
            panic!();
        };
        let Some(Member::Result(slice)) = &each[0] else {
            panic!();
        };
        assert_eq!(slice.as_ptr(), body[17..].as_ptr(), "not copied");
    }

    #[test]
    fn errors_pass_through_also_without_an_id() {
        let each = vec![error(r#"{"code":3,"data":"0x"}"#)];
        for text in [
            r#"{"id":7,"error":{"code":3,"data":"0x"}}"#,
            r#"{"id":null,"error":{"code":3,"data":"0x"}}"#,
            r#"{"error":{"code":3,"data":"0x"},"result":null}"#,
        ] {
            assert_eq!(
                read_text(text, 1),
                Ok(Answers::Each(each.clone())),
                "{text}"
            );
        }
    }

    #[test]
    fn answers_of_a_batch_may_come_in_any_order_and_lack_members() {
        let text = r#"[{"id":9,"result":3},{"id":7,"error":{}}]"#;
        let each = vec![error("{}"), None, result("3")];
        assert_eq!(read_text(text, 3), Ok(Answers::Each(each)));
        assert_eq!(read_text("[]", 2), Ok(Answers::Each(vec![None, None])));
        let refused = Answers::Refused(Bytes::from_static(br#"{"code":1}"#));
        assert_eq!(
            read_text(r#"{"id":null,"error":{"code":1}}"#, 2),
            Ok(refused)
        );
    }

    #[test]
    fn what_is_no_json_rpc_or_has_a_wrong_id_is_refused() {
        for (text, count) in [
            ("", 1),
            ("<html>", 1),
            (r#"{"id":7,"result":1"#, 1),
            (r#"{"id":7,"result":1} x"#, 1),
            (r#"{"id":7}"#, 1),
            (r#"{"id":8,"result":1}"#, 1),
            (r#"{"id":null,"result":1}"#, 1),
            (r#"{"result":1}"#, 1),
            (r#"{"id":7,"result":1,"result":2}"#, 1),
            (r#"{"id":7,"error":"no"}"#, 1),
            (r#"[{"id":7,"result":1}]"#, 1),
            (r#"{"id":7,"result":1}"#, 2),
            (r#"[{"id":7,"result":1},{"id":7,"result":1}]"#, 2),
            (r#"[{"id":7,"result":1},{"id":9,"result":1}]"#, 2),
            (r#"[{"id":7,"result":1},{"id":6,"result":1}]"#, 2),
            (r#"[{"id":7,"result":1},{"id":null,"result":1}]"#, 2),
            (r#"[{"id":7,"result":1},null]"#, 2),
            ("null", 1),
            ("[1]", 2),
        ] {
            read_text(text, count).unwrap_err();
        }
        read(&Bytes::from_static(b"{\"id\":7,\"result\":\"\xff\"}"), 7, 1).unwrap_err();
    }

    #[test]
    fn deep_answers_are_passed_on() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let text = format!(r#"{{"id":7,"result":{deep}}}"#);
        let body = Bytes::from(text);
        assert!(matches!(read(&body, 7, 1), Ok(Answers::Each(_))));
    }
}
