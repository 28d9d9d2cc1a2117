//! What makes two calls the same.

use std::fmt;

/// The most bytes of parameters that are compared. Calls with more are neither kept nor shared.
pub const PARAMS_MAX: usize = 64 * 1024;

/// A call, whatever its client does to write it: the hash of its method and of the canonical text of its parameters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of a call. `None` if its parameters are too long, or are no JSON.
    pub fn of(method: &str, params: &[u8]) -> Option<Self> {
        if params.len() > PARAMS_MAX {
            return None;
        }
        // The length keeps the method and the parameters apart.
        let mut text = Vec::with_capacity(8 + method.len() + params.len());
        text.extend((method.len() as u64).to_le_bytes());
        text.extend(method.as_bytes());
        write_canonical(params, &mut text)?;
        Some(Self(*blake3::hash(&text).as_bytes()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Writes `params` without insignificant white space, and with the digits of its hexadecimal texts in lower case. No
/// parameters are an empty list. Returns `None` where leaving white space out would join two values.
///
/// Names of fields keep their case: two that differ only in it are two. So do texts that are more than hexadecimal digits.
fn write_canonical(params: &[u8], text: &mut Vec<u8>) -> Option<()> {
    if params.trim_ascii().is_empty() {
        text.extend(b"[]");
        return Some(());
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let mut rest = params;
    let (mut was_space, mut was_value) = (false, false);
    while let [first, ..] = rest {
        if is_space(first) {
            was_space = true;
            rest = &rest[1..];
            continue;
        }
        let is_value = !matches!(first, b'[' | b']' | b'{' | b'}' | b',' | b':');
        if was_space && was_value && is_value {
            return None;
        }
        (was_space, was_value) = (false, is_value);
        if *first != b'"' {
            text.push(*first);
            rest = &rest[1..];
            continue;
        }
        let (string, after) = rest.split_at(string_len(rest)?);
        let next = after.iter().find(|byte| !is_space(byte));
        let start = text.len();
        text.extend(string);
        if next != Some(&b':') && is_hex(string) {
            text[start..].make_ascii_lowercase();
        }
        rest = after;
    }
    Some(())
}

/// The length of the string that `text` begins with.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    for (index, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// Whether `string`, with its quotation marks, is `0x` and hexadecimal digits.
fn is_hex(string: &[u8]) -> bool {
    let digits = string
        .strip_prefix(b"\"0x")
        .and_then(|digits| digits.strip_suffix(b"\""));
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn key(params: &str) -> Option<Key> {
        Key::of("eth_call", params.as_bytes())
    }

    #[test]
    fn calls_that_mean_the_same_are_the_same() {
        let plain = key(r#"[{"to":"0xab","data":"0x"},"0x1a"]"#);
        assert!(plain.is_some());
        assert_eq!(
            plain,
            key("[ {\"to\" : \"0xAb\",\n\"data\":\"0x\" } ,\t\"0x1A\" ]\r\n")
        );
        assert_eq!(key(""), key("[]"));
        assert_eq!(key(" "), key("[ ]"));
    }

    #[test]
    fn calls_that_differ_are_different() {
        let texts = [
            r#"["0x1"]"#,
            r#"["0x01"]"#,
            r#"["0X1"]"#,
            r#"["0x1 "]"#,
            r#"[" 0x1"]"#,
            r#"["0x1","0x1"]"#,
            r#"["0x1g"]"#,
            r#"["0x1G"]"#,
            r#"["abc"]"#,
            r#"["ABC"]"#,
            r#"[{"0xa":1}]"#,
            r#"[{"0xA":1}]"#,
            r#"[1,2]"#,
            r#"[12]"#,
            r#"["\"0xA"]"#,
            r#"["\"0xa"]"#,
            "{}",
            "[]",
            "[[]]",
            "[null]",
            r#"["a  b"]"#,
            r#"["a b"]"#,
        ];
        let keys: std::collections::HashSet<_> =
            texts.iter().map(|text| key(text).unwrap()).collect();
        assert_eq!(keys.len(), texts.len());
        assert_ne!(Key::of("eth_call", b"[]"), Key::of("eth_cal", b"l[]"));
        assert_ne!(Key::of("a", b"[]"), Key::of("b", b"[]"));
    }

    #[test]
    fn what_is_no_json_has_no_key() {
        for text in ["[1 2]", "[\"a\" \"b\"]", "[\"a", "[\"a\\\"]", "[1 \"a\"]"] {
            assert_eq!(key(text), None, "{text}");
        }
        let long = format!("[\"{}\"]", "0".repeat(PARAMS_MAX));
        assert_eq!(key(&long), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..20_i64).prop_map(Value::from),
            "(0x[0-9a-fA-F]{0,3}|[ a\\\\\":,\\[x0A]{0,4})".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            let name = "(0x[aA]|[a\"\\\\: ]{1,2})";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// The value with what the key does not tell apart made equal.
    fn folded(value: &Value) -> Value {
        match value {
            Value::String(text) if is_hex(format!("\"{text}\"").as_bytes()) => {
                text.to_lowercase().into()
            }
            Value::Array(list) => list.iter().map(folded).collect(),
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), folded(value)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn keys_are_equal_exactly_if_the_calls_are(one in value(), other in value()) {
            let pretty = serde_json::to_string_pretty(&one).unwrap();
            let (one_key, other_key) = (key(&one.to_string()), key(&other.to_string()));
            prop_assert!(one_key.is_some());
            prop_assert_eq!(one_key, key(&pretty));
            prop_assert_eq!(one_key, key(&folded(&one).to_string()));
            prop_assert_eq!(one_key == other_key, folded(&one) == folded(&other));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, text in "[\\[\\]\"\\\\ 0xA,:{}]{0,20}") {
            let longer = [&bytes[..], b" "].concat();
            prop_assert_eq!(Key::of("a", &bytes), Key::of("a", &longer));
            prop_assert_eq!(key(&text), key(&format!("{text}\n")));
        }
    }
}
