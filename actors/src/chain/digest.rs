//! The hash of what a JSON text means: two texts that differ only in the order of members and in white space have the same.
//!
//! Why it exists: providers write the members of an object in different orders, and answers may have many megabytes. The hash is
//! made while the text is read, and nothing of it is kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The hash of what a text means.
pub(super) type Digest = [u8; 32];

/// The digest of a text. One that is no JSON, or is nested too deeply, means what is written.
pub(super) fn digest(text: &[u8]) -> Digest {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let read = Meaning.deserialize(&mut parser);
    match read.and_then(|digest| parser.end().map(|()| digest)) {
        Ok(digest) => digest,
        Err(_) => hash(b't', [text]),
    }
}

/// The hash of the parts of a value of one kind. Each kind has parts of fixed lengths, or only one.
fn hash<'a>(kind: u8, parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Reads a value, and makes its digest.
struct Meaning;

impl<'de> DeserializeSeed<'de> for Meaning {
    type Value = Digest;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Digest, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Meaning {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Digest, E> {
        Ok(hash(b'n', []))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Digest, E> {
        Ok(hash(b'b', [&[u8::from(value)][..]]))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Digest, E> {
        Ok(hash(b'u', [&value.to_le_bytes()[..]]))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Digest, E> {
        Ok(hash(b'i', [&value.to_le_bytes()[..]]))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Digest, E> {
        Ok(hash(b'f', [&value.to_le_bytes()[..]]))
    }

    fn visit_str<E>(self, value: &str) -> Result<Digest, E> {
        Ok(hash(b's', [value.as_bytes()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Digest, A::Error> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"l");
        while let Some(digest) = list.next_element_seed(Self)? {
            hasher.update(&digest);
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Digest, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = object.next_key_seed(Self)? {
            members.push([name, object.next_value_seed(Self)?]);
        }
        members.sort_unstable();
        Ok(hash(b'o', members.iter().flatten().map(|it| &it[..])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn texts_that_mean_the_same_have_the_same_digest_and_others_do_not() {
        let same = |one: &str, other: &str| digest(one.as_bytes()) == digest(other.as_bytes());
        assert!(same(
            r#"{"a":1,"b":[2,null]}"#,
            r#" { "b" : [2, null], "\u0061":1 } "#
        ));
        for (one, other) in [
            ("1", "\"1\""),
            ("1", "-1"),
            ("1", "1.5"),
            ("[]", "{}"),
            ("[]", "[[]]"),
            ("[1,2]", "[2,1]"),
            ("null", "false"),
            ("true", "false"),
            (r#"{"a":"b"}"#, r#"{"b":"a"}"#),
            (r#"{"a":"b"}"#, r#"["a","b"]"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            ("[", "[["),
            ("1 2", "1"),
        ] {
            assert!(!same(one, other), "{one} {other}");
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(same(&nested(1000), &nested(1000)));
        assert!(!same(&nested(1000), &nested(1001)));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2..3_i64).prop_map(Value::from),
            "[a-b]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-b]", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The text of a value, with the members of objects in the reverse order and with white space.
    fn reversed(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members = members.iter().rev();
                let members = members.map(|(name, value)| {
                    format!(" {} : {}", Value::from(&**name), reversed(value))
                });
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
            Value::Array(list) => {
                let list: Vec<_> = list.iter().map(reversed).collect();
                format!("[ {} ]", list.join(" , "))
            }
            leaf => leaf.to_string(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn texts_are_equal_as_their_values_are(one in values(), other in values()) {
            let (plain, reversed) = (digest(one.to_string().as_bytes()), digest(reversed(&one).as_bytes()));
            prop_assert_eq!(plain, reversed);
            prop_assert_eq!(plain == digest(other.to_string().as_bytes()), one == other);
        }
    }
}
