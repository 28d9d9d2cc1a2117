//! Settings that are never shown, and the URLs that may hold one.

use std::fmt;

use headroom_actors::{memory, postgres, redis};
use toml::Value;

use super::section::{Leaf, MASK};

/// A text that is never shown: not by `Debug`, not in logs, not by `check-config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the driver that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Leaf for Secret {
    const RULE: &'static str = "a text that is not empty";
    const SECRET: bool = true;

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(MASK.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Declares a URL that may hold a password, with what says whether it can be used.
macro_rules! secret_url {
    ($(#[$meta:meta])* $name:ident, $rule:literal, $check:path) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(Secret);

        impl $name {
            /// The whole URL, password included, for the driver that needs it.
            pub fn expose(&self) -> &str {
                self.0.expose()
            }
        }

        impl Leaf for $name {
            const RULE: &'static str = $rule;
            const SECRET: bool = true;

            fn from_text(text: &str) -> Option<Self> {
                $check(text).is_ok().then(|| Self(Secret(text.into())))
            }

            fn advice(text: &str) -> Option<String> {
                $check(text).err().map(|fault| fault.to_string())
            }

            fn to_toml(&self) -> Option<Value> {
                Some(Value::String(MASK.into()))
            }
        }
    };
}

secret_url! {
    /// Where PostgreSQL is.
    PostgresUrl,
    "a URL such as \"postgres://user:password@host:5432/database\"",
    postgres::check_url
}

secret_url! {
    /// Where Redis is.
    RedisUrl,
    "a URL such as \"redis://:password@host:6379/0\" (or rediss, redis+unix, unix)",
    redis::check_url
}

secret_url! {
    /// Where alerts are posted to.
    WebhookUrl,
    "a URL such as \"https://host/path\"",
    memory::check_webhook_url
}
