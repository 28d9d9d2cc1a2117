//! Reads the merged layers into typed settings.
//!
//! A key is a field of a struct in `sections!`; its type is a [`Leaf`]. A new key needs one line in a
//! section, and its documented default in `config/default.toml`.

use std::ops::Deref;

use toml::Value;

use super::layers::{Located, Origin, Values};
use super::map;

/// The text that is shown in place of a secret.
pub(crate) const MASK: &str = "***";

/// A known key. In a list of keys without values, `*` in its path stands for any name in a [`Map`](super::map::Map).
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) path: String,
    pub(crate) secret: bool,
    pub(crate) form: Form,
}

impl Key {
    /// Whether it is at `path`.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        map::fits(&self.path, path)
    }

    /// The path of the secret whose file's name is at `path`.
    pub(crate) fn secret_of<'a>(&self, path: &'a str) -> Option<&'a str> {
        let path = path.strip_suffix("_file")?;
        (self.secret && self.is_at(path)).then_some(path)
    }
}

/// What TOML may hold instead of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing else.
    Text,
    /// A number or a boolean.
    Bare,
    /// A list of texts.
    List,
}

impl Form {
    /// The text of `value`, or `None` if it does not have this form. The elements of a list are separated
    /// by commas. An environment variable has them in this form, or as TOML.
    fn text(self, value: &Value) -> Option<String> {
        match (self, value) {
            (Self::List, Value::String(text)) if text.trim_start().starts_with('[') => {
                // The address in the first element may be in brackets: that is no TOML.
                match text.trim().parse() {
                    Ok(list @ Value::Array(_)) => self.text(&list),
                    _ => Some(text.clone()),
                }
            }
            (_, Value::String(text)) => Some(text.clone()),
            (Self::Bare, Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => {
                Some(value.to_string())
            }
            (Self::List, Value::Array(list)) if !list.is_empty() => {
                let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
                Some(texts?.join(","))
            }
            _ => None,
        }
    }
}

/// A type that a key can have.
pub(crate) trait Leaf: Clone + PartialEq {
    /// Completes "must be …".
    const RULE: &'static str;
    const FORM: Form = Form::Text;
    /// Whether the value must never be shown.
    const SECRET: bool = false;

    fn from_text(text: &str) -> Option<Self>;

    /// What to change in a text that [`Leaf::from_text`] refuses, if that is known. It contains no part of
    /// a secret.
    fn advice(_text: &str) -> Option<String> {
        None
    }

    /// Whether the value is a zero that the type does not admit.
    fn is_zero(&self) -> bool {
        false
    }
}

impl<T: Leaf> Leaf for Option<T> {
    const RULE: &'static str = T::RULE;
    const FORM: Form = T::FORM;
    const SECRET: bool = T::SECRET;

    /// An empty text means that the key is not set. A layer has no other way to remove the value of an
    /// earlier layer.
    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(None);
        }
        T::from_text(text).map(Some)
    }

    fn advice(text: &str) -> Option<String> {
        T::advice(text)
    }

    fn is_zero(&self) -> bool {
        self.as_ref().is_some_and(T::is_zero)
    }
}

/// A section or a key.
pub(crate) trait Node: Sized {
    /// Reads the value at `path`. `None` if it is invalid; the fault is recorded, so that one run finds
    /// all faults.
    fn read(path: &str, source: &mut Source) -> Option<Self>;

    /// Lists the keys from `path` on whose values differ.
    fn changes(&self, newer: &Self, path: &str, changed: &mut Vec<String>);
}

impl<T: Leaf> Node for T {
    fn read(path: &str, source: &mut Source) -> Option<Self> {
        source.leaf(path)
    }

    fn changes(&self, newer: &Self, path: &str, changed: &mut Vec<String>) {
        if self != newer {
            changed.push(path.into());
        }
    }
}

/// The merged layers, and what is found while they are read.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) values: Values,
    /// The keys that were read.
    pub(crate) keys: Vec<Key>,
    /// Whether there are no values, and only the keys are wanted.
    pub(crate) lists_keys: bool,
    /// Values that are invalid by themselves.
    pub(crate) faults: Vec<String>,
    pub(crate) rules: Rules,
}

impl Source {
    fn leaf<T: Leaf>(&mut self, path: &str) -> Option<T> {
        self.keys.push(Key {
            path: path.into(),
            secret: T::SECRET,
            form: T::FORM,
        });
        let base = inherited_from(path).filter(|_| !self.values.contains_key(path));
        let Some(located) = self.values.get(base.as_deref().unwrap_or(path)) else {
            let unset = T::from_text("");
            if unset.is_none() {
                self.faults.push(format!("{path} is not set"));
            }
            return unset;
        };
        let value = convert::<T>(path, located);
        if base.is_some() {
            // The base key itself reports what is wrong.
            return value.ok();
        }
        match value {
            Ok(value) => {
                self.rules
                    .require(!value.is_zero(), &format!("{path} must be above 0"));
                Some(value)
            }
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }
}

fn convert<T: Leaf>(path: &str, Located { value, origin, .. }: &Located) -> Result<T, String> {
    let text = T::FORM.text(value);
    if T::SECRET && text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        return Err(empty_secret(path, origin));
    }
    text.as_deref().and_then(T::from_text).ok_or_else(|| {
        let shown = match value {
            _ if T::SECRET => String::new(),
            Value::String(text) => format!(" = {text:?}"),
            other => format!(" = {other}"),
        };
        let advice = text.as_deref().and_then(T::advice);
        let advice = advice.map_or(String::new(), |advice| format!("; {advice}"));
        format!("{origin}: {path}{shown} must be {}{advice}", T::RULE)
    })
}

/// An empty secret is a fault: most likely the tool that provides it has failed.
pub(crate) fn empty_secret(key: &str, origin: &Origin) -> String {
    format!("{origin}: {key} is empty; set the secret, or remove the key")
}

/// The rules that valid values break together.
#[derive(Debug, Default)]
pub(crate) struct Rules(pub(crate) Vec<String>);

impl Rules {
    pub(crate) fn require(&mut self, holds: bool, rule: &str) {
        if !holds {
            self.0.push(rule.into());
        }
    }
}

/// Pairs of sections: a key that is not set in the first has the value of the same key in the
/// second, if that has one.
const INHERITED_SECTIONS: [(&str, &str); 7] = [
    ("chains.*", "rpc"),
    ("chains.*.selection", "rpc.selection"),
    ("chains.*.providers.*", "rpc.provider"),
    ("postgres.replicas.pool", "postgres.pool"),
    ("redis.primary.pool", "redis.pool"),
    ("redis.cache.pool", "redis.pool"),
    ("redis.pubsub.pool", "redis.pool"),
];

/// The key that gives `path` its value when `path` itself is not set.
pub(crate) fn inherited_from(path: &str) -> Option<String> {
    let (section, name) = path.rsplit_once('.')?;
    let inherited = INHERITED_SECTIONS
        .iter()
        .find(|(key, _)| map::fits(key, section));
    inherited.map(|(_, base)| join(base, name))
}

pub(crate) fn join(prefix: &str, field: &str) -> String {
    if prefix.is_empty() {
        field.into()
    } else {
        format!("{prefix}.{field}")
    }
}

/// Keys that several sections have. They are keys of the section that this is a field of, whatever the field is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Same<T>(T);

impl<T> Deref for Same<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Node> Node for Same<T> {
    fn read(path: &str, source: &mut Source) -> Option<Self> {
        T::read(section_of(path), source).map(Self)
    }

    fn changes(&self, newer: &Self, path: &str, changed: &mut Vec<String>) {
        self.0.changes(&newer.0, section_of(path), changed);
    }
}

fn section_of(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(section, _)| section)
}

/// Declares structs of settings, and makes each a [`Node`].
macro_rules! sections {
    ($(
        $(#[$meta:meta])* pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident : $ty:ty, )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $ty, )* }

        impl $crate::settings::section::Node for $name {
            fn read(path: &str, source: &mut $crate::settings::section::Source) -> Option<Self> {
                use $crate::settings::section::{Node, join};
                // All fields are read before the first invalid one returns.
                $( let $field = Node::read(&join(path, stringify!($field)), source); )*
                Some(Self { $( $field: $field?, )* })
            }

            fn changes(&self, newer: &Self, path: &str, changed: &mut Vec<String>) {
                use $crate::settings::section::{Node, join};
                $(
                    let path_of_field = join(path, stringify!($field));
                    Node::changes(&self.$field, &newer.$field, &path_of_field, changed);
                )*
            }
        }
    )* };
}
pub(crate) use sections;
