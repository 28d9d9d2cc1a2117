//! Reads requests of JSON-RPC 2.0, without a tree of their values: ids and parameters stay the bytes that they are.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use headroom_actors::chain::rpc::Call;
use memchr::memchr2;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// How deep the lists and objects of a request may be nested. Providers read them recursively.
const DEPTH_MAX: usize = 128;

/// The longest name of a method.
const METHOD_MAX: usize = 128;

/// The body is no JSON.
pub(super) const PARSE_ERROR: i32 = -32700;
/// It is JSON, and no request.
pub(super) const INVALID_REQUEST: i32 = -32600;
/// There is no such method.
pub(super) const NO_METHOD: i32 = -32601;
/// The parameters are neither a list nor an object.
pub(super) const INVALID_PARAMS: i32 = -32602;
/// A limit is exceeded, as in EIP-1474.
pub(super) const LIMIT_EXCEEDED: i32 = -32005;
/// What is asked for is not there now, as in EIP-1474.
pub(super) const UNAVAILABLE: i32 = -32002;

/// A request.
#[derive(Debug)]
pub(super) enum Request {
    /// One call.
    Single(Member),
    /// Several, at least one.
    Batch(Vec<Member>),
}

/// One call of a request.
#[derive(Debug)]
pub(super) struct Member {
    /// The text of its id. `None` for a notification, which gets no answer.
    pub(super) id: Option<Bytes>,
    /// The call, or why it is none.
    pub(super) call: Result<Arc<Call>, Fault>,
}

/// What is wrong with a request or a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The code of JSON-RPC.
    pub(super) code: i32,
    /// What is wrong.
    pub(super) message: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { code, message }
    }
}

/// Reads a request. Its calls share the bytes of `body`.
///
/// # Errors
/// It has no call that could be answered by itself.
pub(super) fn read(body: &Bytes, batch_max: usize) -> Result<Request, Fault> {
    let no_json = |detail: &dyn fmt::Display| {
        Fault::new(PARSE_ERROR, format!("the body is not valid JSON: {detail}"))
    };
    let text = std::str::from_utf8(body).map_err(|_| no_json(&"it is not UTF-8"))?;
    // JSON has fewer kinds of white space than ASCII.
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    if !text.starts_with('[') {
        let whole: &RawValue = serde_json::from_str(text).map_err(|error| no_json(&error))?;
        return Ok(Request::Single(member(body, whole)));
    }
    let batch = Batch::read(text, batch_max).map_err(|error| no_json(&error))?;
    if batch.is_too_long {
        let message = format!("the batch has more than {batch_max} calls");
        return Err(Fault::new(INVALID_REQUEST, message));
    }
    if batch.members.is_empty() {
        return Err(Fault::new(INVALID_REQUEST, "the batch is empty"));
    }
    let members = batch.members.into_iter();
    let members = members.map(|raw| member(body, raw));
    Ok(Request::Batch(members.collect()))
}

/// Reads one call, whose text is a part of `body`.
fn member(body: &Bytes, raw: &RawValue) -> Member {
    let null = || Some(Bytes::from_static(b"null"));
    let invalid = |id, message| Member {
        id,
        call: Err(Fault::new(INVALID_REQUEST, message)),
    };
    let text = raw.get();
    if !text.starts_with('{') {
        return invalid(null(), "a request must be an object");
    }
    if is_deeper(text, DEPTH_MAX) {
        let message = "its lists and objects are nested too deeply: at most 128 are allowed";
        return invalid(null(), message);
    }
    // The text is JSON, so only a name of a member can be wrong.
    let Ok(object) = serde_json::from_str::<Object<'_>>(text) else {
        return invalid(null(), "the name of a member is not valid Unicode");
    };
    let id = match object.id {
        _ if object.twice == Some(Field::Id) => return invalid(null(), "the id is there twice"),
        Some(id) if is_id(id.get()) => Some(part(body, id)),
        Some(_) => return invalid(null(), "the id must be a string, a number or null"),
        None => None,
    };
    // What is no request gets an answer, as nobody knows whether it was meant as a notification.
    let invalid = |message| invalid(id.clone().or_else(null), message);
    if object.twice.is_some() {
        return invalid("a member of the request is there twice");
    }
    if object.jsonrpc.map(RawValue::get) != Some(r#""2.0""#) {
        return invalid("the member jsonrpc must be \"2.0\"");
    }
    let method = object.method.map(RawValue::get);
    let Some(method) = method.filter(|text| text.starts_with('"')) else {
        return invalid("the member method must be a string");
    };
    let call = call(body, method, object.params);
    Member { id, call }
}

fn call(body: &Bytes, method: &str, params: Option<&RawValue>) -> Result<Arc<Call>, Fault> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let method = method.trim_matches('"');
    let is_name = (1..=METHOD_MAX).contains(&method.len()) && method.bytes().all(is_of_name);
    if !is_name || method.starts_with("rpc.") {
        return Err(Fault::new(NO_METHOD, "there is no such method"));
    }
    let params = match params.map(|raw| (raw, raw.get().as_bytes().first())) {
        Some((raw, Some(b'[' | b'{'))) => part(body, raw),
        // Nodes take null, too.
        None | Some((_, Some(b'n'))) => Bytes::new(),
        Some(_) => {
            let message = "the member params must be a list or an object";
            return Err(Fault::new(INVALID_PARAMS, message));
        }
    };
    Ok(Arc::new(Call::new(method, params)))
}

/// The bytes of a part of the body. They keep the memory of the body.
fn part(body: &Bytes, raw: &RawValue) -> Bytes {
    body.slice_ref(raw.get().as_bytes())
}

fn is_id(text: &str) -> bool {
    let first = text.as_bytes().first();
    first.is_some_and(|first| b"\"-n".contains(first) || first.is_ascii_digit())
}

/// Whether lists and objects in `text`, which is JSON, are nested more than `max` deep.
fn is_deeper(text: &str, max: usize) -> bool {
    let mut depth = 0;
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        match first {
            b'[' | b'{' if depth == max => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                // The byte after a backslash belongs to the string.
                while let Some(end) = memchr2(b'"', b'\\', rest) {
                    let is_escape = rest[end] == b'\\';
                    rest = rest
                        .get(end + 1 + usize::from(is_escape)..)
                        .unwrap_or_default();
                    if !is_escape {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    false
}

/// The members of a batch.
#[derive(Default)]
struct Batch<'a> {
    members: Vec<&'a RawValue>,
    /// Whether there are further ones, which were only read.
    is_too_long: bool,
}

impl<'a> Batch<'a> {
    fn read(text: &'a str, max: usize) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        let batch = json.deserialize_seq(UpTo(max))?;
        json.end()?;
        Ok(batch)
    }
}

/// Reads a batch of at most so many members.
struct UpTo(usize);

impl<'de> Visitor<'de> for UpTo {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Batch<'de>, A::Error> {
        let mut batch = Batch::default();
        while batch.members.len() < self.0 {
            match list.next_element()? {
                Some(member) => batch.members.push(member),
                None => return Ok(batch),
            }
        }
        // The rest shows whether it is JSON.
        while list.next_element::<IgnoredAny>()?.is_some() {
            batch.is_too_long = true;
        }
        Ok(batch)
    }
}

/// The members of a request as an object.
#[derive(Default)]
struct Object<'a> {
    jsonrpc: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    /// A member that is there twice; the id, if it is one of them.
    twice: Option<Field>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Jsonrpc,
    Method,
    Params,
    Id,
    Other,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Field, E> {
                Ok(match name {
                    "jsonrpc" => Field::Jsonrpc,
                    "method" => Field::Method,
                    "params" => Field::Params,
                    "id" => Field::Id,
                    _ => Field::Other,
                })
            }
        }

        deserializer.deserialize_str(Name)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some(field) = map.next_key()? {
                    let place = match field {
                        Field::Jsonrpc => &mut object.jsonrpc,
                        Field::Method => &mut object.method,
                        Field::Params => &mut object.params,
                        Field::Id => &mut object.id,
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if place.replace(map.next_value()?).is_some() && object.twice != Some(Field::Id)
                    {
                        object.twice = Some(field);
                    }
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The target of `crate::fuzz` that reads requests.
#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, reason = "how a target fails")]
pub(crate) fn fuzz(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let text = str::from_utf8(data).ok();
    let is_json = text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let members = match read(&body, 3) {
        Ok(Request::Single(member)) => vec![member],
        Ok(Request::Batch(members)) => members,
        Err(fault) => {
            assert_eq!(fault.code == PARSE_ERROR, !is_json, "{fault:?}");
            return;
        }
    };
    assert!(is_json && (1..=3).contains(&members.len()));
    for Member { id, call } in members {
        if let Some(id) = id {
            let id = str::from_utf8(&id).unwrap();
            serde_json::from_str::<&RawValue>(id).unwrap();
            assert!(!id.starts_with(['[', '{', 't', 'f']), "{id}");
        }
        if let Ok(call) = call
            && !call.params.is_empty()
        {
            let params: &RawValue = serde_json::from_slice(&call.params).unwrap();
            assert!(params.get().starts_with(['[', '{']));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Request, Fault> {
        read(&Bytes::copy_from_slice(text.as_bytes()), 3)
    }

    fn single(text: &str) -> Member {
        match read_text(text) {
            Ok(Request::Single(member)) => member,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn call_of(text: &str) -> Arc<Call> {
        single(text).call.expect(text)
    }

    /// The code of the fault, and the id in its answer.
    fn fault(text: &str) -> (i32, Option<Bytes>) {
        let member = single(text);
        let fault = member.call.expect_err(text);
        (fault.code, member.id)
    }

    #[test]
    fn ids_and_parameters_stay_as_they_are() {
        for id in [
            "1",
            "-1",
            "1.50e+300",
            "123456789012345678901234567890",
            "\"a\\u0041\\\"\"",
            "\"\"",
            "null",
        ] {
            for params in ["[]", "{ \"a\" : 1e999 }", "[ [\"\\ud800\"] ,2]"] {
                let text = format!(
                    " {{\"id\": {id} ,\"params\":{params},\n\"method\":\"eth_call\",\"jsonrpc\":\"2.0\",\"x\":[{{}}]}} "
                );
                let member = single(&text);
                assert_eq!(member.id.unwrap(), id);
                let call = member.call.unwrap();
                assert_eq!(&*call.method, "eth_call");
                assert_eq!(call.params, params);
            }
        }
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"m"}"#,
        ] {
            assert!(call_of(text).params.is_empty(), "{text}");
        }
        assert_eq!(single(r#"{"jsonrpc":"2.0","method":"m"}"#).id, None);
    }

    #[test]
    fn what_is_no_request_is_said_with_its_id_if_that_is_known() {
        let null = Some(Bytes::from_static(b"null"));
        let seven = Some(Bytes::from_static(b"7"));
        for (text, code, id) in [
            ("1", -32600, &null),
            ("\"a\"", -32600, &null),
            ("{}", -32600, &null),
            (r#"{"jsonrpc":"2.0","method":1}"#, -32600, &null),
            (r#"{"jsonrpc":"2.0","method":"m","id":[7]}"#, -32600, &null),
            (r#"{"jsonrpc":"2.0","method":"m","id":{}}"#, -32600, &null),
            (r#"{"jsonrpc":"2.0","method":"m","id":true}"#, -32600, &null),
            (
                r#"{"jsonrpc":"2.0","method":"m","id":7,"id":7}"#,
                -32600,
                &null,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","method":"m","id":7,"\u0069d":7}"#,
                -32600,
                &null,
            ),
            (r#"{"jsonrpc":"2.0","id":7}"#, -32600, &seven),
            (r#"{"jsonrpc":"2.0","method":null,"id":7}"#, -32600, &seven),
            (
                r#"{"jsonrpc":"2.0","method":"m","method":"m","id":7}"#,
                -32600,
                &seven,
            ),
            (r#"{"jsonrpc":"1.0","method":"m","id":7}"#, -32600, &seven),
            (r#"{"jsonrpc":2.0,"method":"m","id":7}"#, -32600, &seven),
            (r#"{"method":"m","id":7}"#, -32600, &seven),
            (r#"{"jsonrpc":"2.0","method":"","id":7}"#, -32601, &seven),
            (r#"{"jsonrpc":"2.0","method":"a b","id":7}"#, -32601, &seven),
            (r#"{"jsonrpc":"2.0","method":"a\"","id":7}"#, -32601, &seven),
            (
                r#"{"jsonrpc":"2.0","method":"rpc.discover","id":7}"#,
                -32601,
                &seven,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":"bar","id":7}"#,
                -32602,
                &seven,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":0,"id":7}"#,
                -32602,
                &seven,
            ),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":0}"#,
                -32602,
                &None,
            ),
        ] {
            assert_eq!(fault(text), (code, id.clone()), "{text}");
        }
        let long = "m".repeat(METHOD_MAX + 1);
        let long = format!(r#"{{"jsonrpc":"2.0","method":"{long}","id":7}}"#);
        assert_eq!(fault(&long), (-32601, seven));
    }

    #[test]
    fn what_is_no_json_is_a_parse_error() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "nothing",
            "{} {}",
            "[] []",
            "[1,]",
            r#"{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]"#,
            r#"[{"jsonrpc":"2.0","method":"m","id":"1"},{"jsonrpc":"2.0","method""#,
            "{\"a\":\"\n\"}",
            "\u{c}1",
            "\u{a0}[]",
            "[1,2,3,4,5",
        ] {
            assert_eq!(read_text(text).unwrap_err().code, PARSE_ERROR, "{text}");
        }
        let no_text = read(&Bytes::from_static(b"\"\xff\""), 1).unwrap_err();
        assert_eq!(no_text.code, PARSE_ERROR);
    }

    #[test]
    fn batches_are_bounded_and_each_member_stands_for_itself() {
        let text =
            r#"[1,{"jsonrpc":"2.0","method":"m","id":1},{"jsonrpc":"2.0","method":"m","id":1}]"#;
        let Ok(Request::Batch(members)) = read_text(text) else {
            panic!("no batch")
        };
        let valid: Vec<_> = members.iter().map(|member| member.call.is_ok()).collect();
        assert_eq!(valid, [false, true, true]);
        for (text, word) in [("[]", "empty"), (" [1,2,3,[]]", "more than 3 calls")] {
            let fault = read_text(text).unwrap_err();
            assert_eq!(fault.code, INVALID_REQUEST);
            assert!(fault.message.contains(word), "{fault:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_wherever_it_is() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let text = |params: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"m","id":7,"x":["\"[[","\\"],"params":{params}}}"#
            )
        };
        call_of(&text(&nested(DEPTH_MAX - 1)));
        for depth in [DEPTH_MAX, 1_000_000] {
            assert_eq!(fault(&text(&nested(depth))).0, INVALID_REQUEST);
        }
        // The members of a batch are counted by themselves.
        let Ok(Request::Batch(members)) = read_text(&nested(1_000_000)) else {
            panic!("no batch")
        };
        assert_eq!(members.len(), 1);
        assert!(members[0].call.is_err());
    }
}
