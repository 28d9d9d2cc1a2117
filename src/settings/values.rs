//! The types of settings. Each type admits only values that are valid by themselves. Rules over several
//! keys are checked in [`super::sections`].

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use headroom_actors::redis::Node;
use toml::Value;

use super::section::Leaf;

/// The longest duration. Adding it to an instant never overflows.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Leaf for Duration {
    const RULE: &'static str =
        "a duration of at most a year, such as \"250ms\", \"30s\" or \"10m\"";

    fn from_text(text: &str) -> Option<Self> {
        let duration = humantime::parse_duration(text).ok()?;
        (duration <= DURATION_MAX).then_some(duration)
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(
            humantime::format_duration(*self)
                .to_string()
                .replace(' ', ""),
        ))
    }
}

impl Leaf for ByteSize {
    const RULE: &'static str =
        "a size such as \"512MiB\" (binary: KiB, MiB, GiB) or \"512MB\" (decimal: kB, MB, GB)";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok().map(ByteSize),
            other => other.as_str().and_then(Self::from_text),
        }
    }

    /// In the largest binary unit that divides it, so that nothing is rounded.
    fn to_toml(&self) -> Option<Value> {
        let (units, mut size) = (["B", "KiB", "MiB", "GiB", "TiB"], self.as_u64());
        let mut unit = 0;
        while size != 0 && size % 1024 == 0 && unit + 1 < units.len() {
            size /= 1024;
            unit += 1;
        }
        Some(Value::String(format!("{size}{}", units[unit])))
    }
}

impl Leaf for SocketAddr {
    const RULE: &'static str = "an IP address and a port, such as \"127.0.0.1:8080\"";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Leaf for PathBuf {
    const RULE: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Path::new(text).to_owned())
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.display().to_string()))
    }
}

impl Leaf for bool {
    const RULE: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

/// The number of threads that serve requests; 0 means one per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(usize);

impl Workers {
    /// The most worker threads.
    const MAX: usize = 512;

    /// The number of threads on this machine.
    pub fn count(self) -> usize {
        if self.0 > 0 {
            return self.0;
        }
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }
}

impl Leaf for Workers {
    const RULE: &'static str = "a number from 0 (one per core) to 512";

    fn from_text(text: &str) -> Option<Self> {
        let count = text.parse().ok()?;
        (count <= Self::MAX).then_some(Self(count))
    }

    fn from_toml(value: &Value) -> Option<Self> {
        let count = usize::try_from(value.as_integer()?).ok()?;
        (count <= Self::MAX).then_some(Self(count))
    }

    fn to_toml(&self) -> Option<Value> {
        i64::try_from(self.0).ok().map(Value::Integer)
    }
}

impl Leaf for NonZeroUsize {
    const RULE: &'static str = "a whole number of at least 1";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        usize::try_from(value.as_integer()?)
            .ok()
            .and_then(Self::new)
    }

    fn to_toml(&self) -> Option<Value> {
        i64::try_from(self.get()).ok().map(Value::Integer)
    }
}

/// The name of a user of the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(Box<str>);

impl UserName {
    /// The longest name that `useradd` accepts.
    const LENGTH_MAX: usize = 32;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for UserName {
    const RULE: &'static str = "the name of a user of this system, such as \"postgres\"";

    fn from_text(text: &str) -> Option<Self> {
        let is_name = (1..=Self::LENGTH_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        is_name.then(|| Self(text.into()))
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone().into()))
    }
}

/// A name that another system defines: a user, or the master that sentinels watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Box<str>);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for Name {
    const RULE: &'static str = "a name without spaces";

    fn from_text(text: &str) -> Option<Self> {
        let is_name = !text.is_empty() && text.chars().all(|c| !c.is_whitespace());
        is_name.then(|| Self(text.into()))
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.0.clone().into()))
    }
}

impl Leaf for u32 {
    const RULE: &'static str = "a whole number of at least 0";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_toml(value: &Value) -> Option<Self> {
        Self::try_from(value.as_integer()?).ok()
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Integer((*self).into()))
    }
}

/// The nodes of one service, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(Vec<Node>);

impl Nodes {
    /// The nodes.
    pub fn get(&self) -> &[Node] {
        &self.0
    }

    fn from_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Self> {
        let nodes: Vec<Node> = texts.map(node).collect::<Option<_>>()?;
        (!nodes.is_empty()).then_some(Self(nodes))
    }
}

fn node(text: &str) -> Option<Node> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let in_brackets = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let host = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
    let is_host = is_host && (in_brackets.is_some() || !host.contains(':'));
    let port = port.parse().ok().filter(|port| *port > 0)?;
    is_host.then_some(Node { host, port })
}

impl Leaf for Nodes {
    const RULE: &'static str = "a list such as [\"host:6379\", \"[::1]:6379\"]";

    fn from_text(text: &str) -> Option<Self> {
        Self::from_texts(text.split(','))
    }

    fn from_toml(value: &Value) -> Option<Self> {
        match value.as_array() {
            Some(list) => {
                let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
                Self::from_texts(texts?.into_iter())
            }
            None => value.as_str().and_then(Self::from_text),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        let text = |node: &Node| {
            let is_v6 = node.host.contains(':');
            let (open, close) = if is_v6 { ("[", "]") } else { ("", "") };
            Value::String(format!("{open}{}{close}:{}", node.host, node.port))
        };
        Some(Value::Array(self.0.iter().map(text).collect()))
    }
}

/// A share: above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// `value` as a share, if it is above 0 and at most 1.
    pub fn new(value: f64) -> Option<Self> {
        (value > 0.0 && value <= 1.0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Leaf for Share {
    const RULE: &'static str = "a number above 0 and at most 1";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().and_then(Self::new)
    }

    fn from_toml(value: &Value) -> Option<Self> {
        match value {
            Value::Float(share) => Self::new(*share),
            Value::Integer(1) => Self::new(1.0),
            _ => None,
        }
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Float(self.0))
    }
}

/// Declares a setting with a fixed set of words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident, $rule:literal, {
        $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, )*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl Leaf for $name {
            const RULE: &'static str = $rule;

            fn from_text(text: &str) -> Option<Self> {
                match text { $( $word => Some(Self::$variant), )* _ => None }
            }

            fn to_toml(&self) -> Option<Value> {
                Some(Value::String(match self { $( Self::$variant => $word, )* }.into()))
            }
        }
    };
}

choice! {
    /// The format of log events.
    LogFormat, "\"text\" or \"json\"", {
        /// Text, for people.
        Text = "text",
        /// One JSON object per line, for machines.
        Json = "json",
    }
}

choice! {
    /// Which idle model is evicted first.
    EvictionPolicy, "\"gdsf\" or \"lru\"", {
        /// GreedyDual-Size-Frequency: weighs size, frequency of use, and the measured load time.
        Gdsf = "gdsf",
        /// The least recently used model.
        Lru = "lru",
    }
}

choice! {
    /// The lowest level of memory pressure that is sent as an alert.
    AlertLevel, "\"elevated\", \"high\", \"critical\" or \"exhausted\"", {
        /// Allocators are purged.
        Elevated = "elevated",
        /// Idle models are unloaded.
        High = "high",
        /// Emergency clean-up.
        Critical = "critical",
        /// New loads are refused.
        Exhausted = "exhausted",
    }
}
