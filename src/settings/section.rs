//! The `section!` macro, which declares a section of the settings.
//!
//! The macro makes the struct and the code to read, show and reload it: key names, which keys are secret,
//! and which can change at run time. A new key needs one line in a section, and its documented default
//! in `config/default.toml`.

use std::collections::BTreeMap;

use toml::Value;

use super::error::{Fault, Origin};

/// The text that is shown in place of a secret.
pub(crate) const MASK: &str = "***";

/// A known key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) path: String,
    pub(crate) secret: bool,
}

/// A key whose value differs between two settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The dotted name.
    pub key: String,
    /// Whether the change takes effect without a restart.
    pub live: bool,
}

/// A key and its value in force. Secrets are masked.
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) value: Option<Value>,
}

/// A value of a layer, before it is converted to its type.
#[derive(Clone, Debug)]
pub(crate) enum Raw {
    /// From a file; TOML has types of its own.
    Toml(Value),
    /// From the environment or a secret file, which have text only.
    Text(String),
}

impl Raw {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Text(text) => Some(text),
        }
    }
}

/// A raw value and its origin.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// The merged layers, and the faults found so far.
pub(crate) struct Source<'a> {
    pub(crate) values: &'a BTreeMap<String, Located>,
    pub(crate) faults: Vec<Fault>,
}

/// Pairs of sections: a key that is not set in the first has the value of the same key in the
/// second.
const INHERITED_SECTIONS: [(&str, &str); 4] = [
    ("postgres.replicas.pool", "postgres.pool"),
    ("redis.primary.pool", "redis.pool"),
    ("redis.cache.pool", "redis.pool"),
    ("redis.pubsub.pool", "redis.pool"),
];

/// The key that gives `path` its value when `path` itself is not set.
pub(crate) fn inherited_from(path: &str) -> Option<String> {
    let (section, name) = path.rsplit_once('.')?;
    let inherited = INHERITED_SECTIONS.iter().find(|(key, _)| *key == section);
    inherited.map(|(_, base)| join(base, name))
}

impl Source<'_> {
    /// Reads one key. `None` if it is invalid; the fault is recorded, so that one run finds all faults.
    pub(crate) fn leaf<T: Leaf>(&mut self, path: &str) -> Option<T> {
        if !self.values.contains_key(path)
            && let Some(base) = inherited_from(path)
        {
            // The fault is recorded when the base key itself is read.
            let recorded = self.faults.len();
            let value = self.leaf(&base);
            self.faults.truncate(recorded);
            return value;
        }
        let Some(located) = self.values.get(path) else {
            let absent = T::absent();
            if absent.is_none() {
                self.faults.push(Fault::Missing { key: path.into() });
            }
            return absent;
        };
        let text = located.raw.as_text();
        if T::SECRET && text.is_some_and(|text| text.trim().is_empty()) {
            self.faults.push(Fault::EmptySecret {
                key: path.into(),
                origin: located.origin.clone(),
            });
            return None;
        }
        let (value, shown) = match &located.raw {
            Raw::Toml(value) => (T::from_toml(value), value.to_string()),
            Raw::Text(text) => (T::from_text(text), format!("{text:?}")),
        };
        if value.is_none() {
            self.faults.push(Fault::Invalid {
                key: path.into(),
                value: (!T::SECRET).then_some(shown),
                origin: located.origin.clone(),
                rule: T::RULE,
                advice: text.and_then(T::advice),
            });
        }
        value
    }
}

/// A type that a key can have.
pub(crate) trait Leaf: Clone + PartialEq {
    /// Completes "must be …".
    const RULE: &'static str;
    /// Whether the value must never be shown.
    const SECRET: bool = false;

    fn from_text(text: &str) -> Option<Self>;

    /// What to change in a text that [`Leaf::from_text`] refuses, if that is known. It contains no part of
    /// a secret.
    fn advice(_text: &str) -> Option<String> {
        None
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::from_text)
    }

    /// The value as TOML; `None` if it is not set.
    fn to_toml(&self) -> Option<Value>;

    /// The value if no layer sets the key.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T: Leaf> Leaf for Option<T> {
    const RULE: &'static str = T::RULE;
    const SECRET: bool = T::SECRET;

    /// An empty text means that the key is not set: a layer has no other way to remove the value of
    /// an earlier layer.
    fn from_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(None);
        }
        T::from_text(text).map(Some)
    }

    fn advice(text: &str) -> Option<String> {
        T::advice(text)
    }

    fn from_toml(value: &Value) -> Option<Self> {
        if value.as_str() == Some("") {
            return Some(None);
        }
        T::from_toml(value).map(Some)
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().and_then(T::to_toml)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// A group of keys.
pub(crate) trait Section: Sized {
    fn keys(prefix: &str, keys: &mut Vec<Key>);
    fn read(prefix: &str, source: &mut Source<'_>) -> Option<Self>;
    fn entries(&self, prefix: &str, entries: &mut Vec<Entry>);
    fn changes(&self, newer: &Self, prefix: &str, changes: &mut Vec<Change>);
    fn adopt_live(&mut self, newer: &Self);
}

pub(crate) fn key_of<T: Leaf>(path: String) -> Key {
    Key {
        path,
        secret: T::SECRET,
    }
}

pub(crate) fn entry_of<T: Leaf>(path: String, value: &T) -> Entry {
    let shown = value.to_toml();
    Entry {
        path,
        value: if T::SECRET {
            shown.map(|_| Value::String(MASK.into()))
        } else {
            shown
        },
    }
}

pub(crate) fn join(prefix: &str, field: &str) -> String {
    if prefix.is_empty() {
        field.into()
    } else {
        format!("{prefix}.{field}")
    }
}

/// Declares a section. Each field is `restart` (changes need a restart), `live` (changes are applied on
/// SIGHUP) or `section` (a nested group).
macro_rules! section {
    ($(#[$meta:meta])* $name:ident {
        $( $(#[$field_meta:meta])* $kind:ident $field:ident : $ty:ty, )*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $( $(#[$field_meta])* pub $field: $ty, )* }

        impl $crate::settings::section::Section for $name {
            fn keys(prefix: &str, keys: &mut Vec<$crate::settings::section::Key>) {
                $( section!(@keys $kind $ty, prefix, $field, keys); )*
            }

            fn read(
                prefix: &str,
                source: &mut $crate::settings::section::Source<'_>,
            ) -> Option<Self> {
                $( let $field = section!(@read $kind $ty, prefix, $field, source); )*
                Some(Self { $( $field: $field?, )* })
            }

            fn entries(
                &self,
                prefix: &str,
                entries: &mut Vec<$crate::settings::section::Entry>,
            ) {
                $( section!(@entries $kind self, prefix, $field, entries); )*
            }

            fn changes(
                &self,
                newer: &Self,
                prefix: &str,
                changes: &mut Vec<$crate::settings::section::Change>,
            ) {
                $( section!(@changes $kind self, newer, prefix, $field, changes); )*
            }

            fn adopt_live(&mut self, newer: &Self) {
                $( section!(@adopt $kind self, newer, $field); )*
            }
        }
    };

    (@keys section $ty:ty, $prefix:ident, $field:ident, $keys:ident) => {
        <$ty as $crate::settings::section::Section>::keys(
            &$crate::settings::section::join($prefix, stringify!($field)), $keys)
    };
    (@keys $kind:ident $ty:ty, $prefix:ident, $field:ident, $keys:ident) => {
        $keys.push($crate::settings::section::key_of::<$ty>(
            $crate::settings::section::join($prefix, stringify!($field))))
    };

    (@read section $ty:ty, $prefix:ident, $field:ident, $source:ident) => {
        <$ty as $crate::settings::section::Section>::read(
            &$crate::settings::section::join($prefix, stringify!($field)), $source)
    };
    (@read $kind:ident $ty:ty, $prefix:ident, $field:ident, $source:ident) => {
        $source.leaf::<$ty>(&$crate::settings::section::join($prefix, stringify!($field)))
    };

    (@entries section $this:ident, $prefix:ident, $field:ident, $entries:ident) => {
        $this.$field.entries(
            &$crate::settings::section::join($prefix, stringify!($field)), $entries)
    };
    (@entries $kind:ident $this:ident, $prefix:ident, $field:ident, $entries:ident) => {
        $entries.push($crate::settings::section::entry_of(
            $crate::settings::section::join($prefix, stringify!($field)), &$this.$field))
    };

    (@changes section $this:ident, $newer:ident, $prefix:ident, $field:ident, $changes:ident) => {
        $this.$field.changes(
            &$newer.$field,
            &$crate::settings::section::join($prefix, stringify!($field)),
            $changes,
        )
    };
    (@changes $kind:ident $this:ident, $newer:ident, $prefix:ident, $field:ident, $changes:ident) => {
        if $this.$field != $newer.$field {
            $changes.push($crate::settings::section::Change {
                key: $crate::settings::section::join($prefix, stringify!($field)),
                live: stringify!($kind) == "live",
            });
        }
    };

    (@adopt section $this:ident, $newer:ident, $field:ident) => {
        $this.$field.adopt_live(&$newer.$field)
    };
    (@adopt live $this:ident, $newer:ident, $field:ident) => {
        $this.$field = $newer.$field.clone()
    };
    (@adopt restart $this:ident, $newer:ident, $field:ident) => {
        let _kept = &$newer.$field;
    };
}
pub(crate) use section;
