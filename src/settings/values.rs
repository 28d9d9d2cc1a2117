//! The types of settings. Each type admits only values that are valid by themselves. Rules over several
//! keys are checked in [`super::sections`].

use std::net::{Ipv6Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use headroom_actors::kernel::pressure::Level;
use headroom_actors::lazy::PolicyKind;
use headroom_actors::model::SandboxMode;
use headroom_actors::postgres::ResetAfter;
use headroom_actors::redis::Node;

use super::section::{Form, Leaf};

/// The longest duration. Adding it to an instant never overflows.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Leaf for Duration {
    const RULE: &'static str =
        "a duration of at most a year, such as \"250ms\", \"30s\" or \"10m\"";

    fn from_text(text: &str) -> Option<Self> {
        let duration = humantime::parse_duration(text).ok()?;
        (duration <= DURATION_MAX).then_some(duration)
    }

    fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

/// A duration that may be 0. As the type of a setting, [`Duration`] must be above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationOrZero(pub Duration);

impl Leaf for DurationOrZero {
    const RULE: &'static str = Duration::RULE;

    fn from_text(text: &str) -> Option<Self> {
        Duration::from_text(text).map(Self)
    }
}

impl Leaf for ByteSize {
    const RULE: &'static str =
        "a size such as \"512MiB\" (binary: KiB, MiB, GiB) or \"512MB\" (decimal: kB, MB, GB)";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Leaf for SocketAddr {
    const RULE: &'static str = "an IP address and a port, such as \"127.0.0.1:8080\"";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Leaf for PathBuf {
    const RULE: &'static str = "a path";

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| text.into())
    }
}

impl Leaf for bool {
    const RULE: &'static str = "true or false";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// The number of threads that serve requests; 0 means one per core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(usize);

impl Workers {
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
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        let count = text.parse().ok()?;
        (count <= 512).then_some(Self(count))
    }
}

impl Leaf for NonZeroUsize {
    const RULE: &'static str = "a whole number of at least 1";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Leaf for NonZeroU64 {
    const RULE: &'static str = NonZeroUsize::RULE;
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Leaf for u32 {
    const RULE: &'static str = "a whole number of at least 0";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
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
}

/// A name that another system defines: a user, or the master that sentinels watch.
impl Leaf for String {
    const RULE: &'static str = "a name without spaces";

    fn from_text(text: &str) -> Option<Self> {
        let is_name = !text.is_empty() && text.chars().all(|c| !c.is_whitespace());
        is_name.then(|| text.into())
    }
}

/// The nodes of one service, at least one.
impl Leaf for Vec<Node> {
    const RULE: &'static str = "a list such as [\"host:6379\", \"[::1]:6379\"]";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        text.split(',').map(node).collect()
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

/// Names of hosts, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNames(Arc<[String]>);

impl HostNames {
    /// Whether `name` is one of them, in whatever case.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    /// Reads names that are separated by commas. `None` if one of them is no name.
    pub fn parse(text: &str) -> Option<Self> {
        // A final dot says that the name is complete. Requests are compared without theirs.
        let names = text.split(',').map(str::trim);
        let names = names.map(|name| name.strip_suffix('.').unwrap_or(name));
        let is_name = |name: &str| {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !name.is_empty() && name.bytes().all(is_of_name)
        };
        let names = names.map(|name| is_name(name).then(|| name.to_owned()));
        names.collect::<Option<Arc<[_]>>>().map(Self)
    }
}

impl Leaf for HostNames {
    const RULE: &'static str =
        "a list of names without ports, such as [\"headroom.example.org\", \"box\"]";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

/// A share.
impl Leaf for f64 {
    const RULE: &'static str = "a number above 0 and at most 1";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        let share = text.parse().ok()?;
        (share > 0.0 && share <= 1.0).then_some(share)
    }
}

/// A share that may be 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShareOrZero(pub f64);

impl Leaf for ShareOrZero {
    const RULE: &'static str = "a number from 0 to 1";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        let share = text.parse().ok()?;
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }
}

/// A factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor(pub f64);

impl Leaf for Factor {
    const RULE: &'static str = "a number from 0 to 1000";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        let factor = text.parse().ok()?;
        (0.0..=1000.0).contains(&factor).then_some(Self(factor))
    }
}

/// Events per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

impl Leaf for Rate {
    const RULE: &'static str = "a number from 0.01 to 1000000";
    const FORM: Form = Form::Bare;

    fn from_text(text: &str) -> Option<Self> {
        let rate = text.parse().ok()?;
        (0.01..=1e6).contains(&rate).then_some(Self(rate))
    }
}

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Work on the service. Operators may put load on it.
    Development,
    /// The service's users.
    Production,
}

impl Leaf for Profile {
    const RULE: &'static str = "\"production\" or \"development\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "development" => Some(Self::Development),
            "production" => Some(Self::Production),
            _ => None,
        }
    }
}

impl Leaf for ResetAfter {
    const RULE: &'static str = "\"every_transaction\" or \"session_statements\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "every_transaction" => Some(Self::EveryTransaction),
            "session_statements" => Some(Self::SessionStatements),
            _ => None,
        }
    }
}

/// The format of log events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

impl Leaf for LogFormat {
    const RULE: &'static str = "\"text\" or \"json\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl Leaf for SandboxMode {
    const RULE: &'static str = "\"required\", \"best_effort\" or \"off\"";

    fn from_text(text: &str) -> Option<Self> {
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.label() == text)
    }
}

impl Leaf for PolicyKind {
    const RULE: &'static str = "\"gdsf\" or \"lru\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "gdsf" => Some(Self::Gdsf),
            "lru" => Some(Self::Lru),
            _ => None,
        }
    }
}

/// The lowest level of memory pressure that is sent as an alert.
impl Leaf for Level {
    const RULE: &'static str = "\"elevated\", \"high\", \"critical\" or \"exhausted\"";

    fn from_text(text: &str) -> Option<Self> {
        let mut alerts = Self::ALL.into_iter().filter(|level| *level > Self::Normal);
        alerts.find(|level| level.label() == text)
    }
}
