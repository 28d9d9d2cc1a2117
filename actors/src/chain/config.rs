//! The settings of chains and their providers.

use std::fmt;
use std::time::Duration;

/// The settings of one chain.
#[derive(Debug, Clone, PartialEq)]
pub struct ChainConfig {
    /// Its name in paths, metrics and the page: lower-case letters, digits and `-`.
    pub name: String,
    /// Other names in paths.
    pub aliases: Vec<String>,
    /// Its id, which every provider must have.
    pub id: u64,
    /// The time between two blocks.
    pub block_time: Duration,
    /// A block with so many blocks after it is final, if no provider says which one is.
    pub finality_depth: u64,
    /// A page about its blocks and transactions.
    pub explorer: Option<String>,
    /// Who serves it. At least one; names differ.
    pub providers: Vec<ProviderConfig>,
    /// How providers are chosen.
    pub selection: SelectionConfig,
    /// How long it stays open after its last call. `None`: for ever.
    pub ttl: Option<Duration>,
    /// The most bytes of kept answers.
    pub cache_max: u64,
    /// The most blocks of the `eth_getLogs` of a client.
    pub logs_range_max: u64,
    /// Methods that are served. Empty: all that are not refused for what they do.
    pub methods_allowed: Vec<String>,
    /// Methods that are not.
    pub methods_denied: Vec<String>,
    /// Methods whose answer must be the same from several providers.
    pub quorum: Vec<QuorumConfig>,
}

/// The quorum of one method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumConfig {
    /// The method.
    pub method: String,
    /// How many providers are asked.
    pub asked: u32,
    /// How many must give the same answer.
    pub needed: u32,
}

/// The settings of one provider of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// Where it takes requests.
    pub url: ProviderUrl,
    /// Where it takes WebSocket connections, for subscriptions.
    pub ws_url: Option<ProviderUrl>,
    /// Headers of each request, such as one with a key.
    pub headers: Vec<(String, Secret)>,
    /// What a call costs, compared with the other providers.
    pub cost: f64,
    /// The most weight of calls per second. `None`: unlimited, until the provider refuses calls.
    pub rate_max: Option<f64>,
    /// The most requests at once.
    pub in_flight_max: u32,
    /// The most calls of one request. 1: no batches.
    pub batch_max: u32,
    /// How long a call waits for others that go with it.
    pub batch_wait: Duration,
    /// How long one request may take.
    pub timeout: Duration,
    /// The most bytes of an answer.
    pub answer_max: u64,
    /// The most blocks of one `eth_getLogs`. `None`: it is learned.
    pub logs_range_max: Option<u64>,
}

/// How the providers of a chain are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectionConfig {
    /// The weights of the parts of a score.
    pub latency_weight: f64,
    /// See above.
    pub errors_weight: f64,
    /// See above.
    pub lag_weight: f64,
    /// See above.
    pub cost_weight: f64,
    /// See above.
    pub throttling_weight: f64,
    /// A provider replaces the present one if its score is better by this share.
    pub hysteresis: f64,
    /// A provider that is so many blocks behind the others is not used.
    pub lag_max: u64,
    /// The most attempts for one call.
    pub attempts_max: u32,
    /// The share of calls that may be sent a second time because the first takes long.
    pub hedge_share: f64,
    /// The shortest time before that.
    pub hedge_delay_min: Duration,
}

/// A URL that may contain a key in its user, path or query. It is never shown whole.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderUrl(String);

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ProviderUrl {
    /// Hides `url`. `provider` checks its form.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The whole URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The scheme, host and port.
    pub fn shown(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        match scheme {
            "" => host.to_owned(),
            scheme => format!("{scheme}://{host}"),
        }
    }
}

impl fmt::Debug for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.shown())
    }
}
