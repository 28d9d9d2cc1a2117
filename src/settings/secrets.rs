//! Secrets, which are never shown, and URLs that may contain one.

use std::fmt;

use headroom_actors::{chain, memory, postgres, redis};

use super::section::{Leaf, MASK};

/// A secret text. `Debug`, logs and `check-config` never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the driver that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Leaf for Secret {
    const RULE: &'static str = "a text that is not empty";
    const SECRET: bool = true;

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Declares a type of URLs that may contain a password, with the function that checks it.
macro_rules! secret_url {
    ($(#[$meta:meta])* $name:ident, $rule:literal, $check:path) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(Secret);

        impl $name {
            /// The whole URL with its password, for the driver that needs it.
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
        }
    };
}

secret_url! {
    /// The URL of a PostgreSQL server.
    PostgresUrl,
    "a URL such as \"postgres://user:password@host:5432/database\"",
    postgres::check_url
}

secret_url! {
    /// The URL of a Redis server.
    RedisUrl,
    "a URL such as \"redis://:password@host:6379/0\" (or rediss, redis+unix, unix)",
    redis::check_url
}

secret_url! {
    /// The URL that alerts are posted to.
    WebhookUrl,
    "a URL such as \"https://host/path\"",
    memory::check_webhook_url
}

secret_url! {
    /// The URL of a provider of a chain.
    ChainUrl,
    "a URL such as \"https://host/key\"",
    chain::check_url
}

secret_url! {
    /// The URL of a provider of a chain for subscriptions.
    ChainSocketUrl,
    "a URL such as \"wss://host/key\"",
    chain::check_socket_url
}
