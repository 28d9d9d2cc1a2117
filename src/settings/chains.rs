//! The settings of the gateway to chains. `config/chains.toml` has the known chains; it is compiled in.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use headroom_actors::chain::config::QuorumConfig;
use headroom_actors::chain::methods::may_have_quorum;

use super::layers::{Origin, nearest};
use super::map::Map;
use super::secrets::{ChainSocketUrl, ChainUrl, Secret};
use super::section::{Form, Key, Leaf, Rules, Same, Source, sections};
use super::values::{DurationOrZero, Factor, Rate, ShareOrZero};

sections! {
    /// Requests to chains, and what holds for each chain that does not say otherwise.
    pub struct RpcSettings {
        /// Largest request body.
        pub request_max: ByteSize,
        /// Calls of one request.
        pub batch_max: NonZeroUsize,
        /// Calls of one client at the same time.
        pub client_calls_max: NonZeroUsize,
        /// WebSocket connections of one client at the same time.
        pub client_websockets_max: NonZeroUsize,
        /// How chains are served that do not say otherwise.
        pub serving: Same<ServingSettings>,
        /// How providers are used that do not say otherwise.
        pub provider: UsageSettings,
    }

    /// How a chain is served. `rpc` says it for all chains.
    pub struct ServingSettings {
        /// How long an unused chain stays open; for ever if not set.
        pub ttl: Option<Duration>,
        /// Most bytes of kept answers.
        pub cache_max: ByteSize,
        /// Most blocks of an `eth_getLogs`.
        pub logs_range_max: NonZeroU64,
        /// The only methods that are served.
        pub methods_allowed: Option<Methods>,
        /// Methods that are not served.
        pub methods_denied: Option<Methods>,
        /// Methods that several providers are asked for.
        pub quorum: Option<Quorums>,
        /// How providers are chosen.
        pub selection: SelectionSettings,
    }

    /// How the providers of a chain are chosen.
    pub struct SelectionSettings {
        /// What slow answers add to a score.
        pub latency_weight: Factor,
        /// What failed calls add.
        pub errors_weight: Factor,
        /// What missing blocks add.
        pub lag_weight: Factor,
        /// What the cost adds.
        pub cost_weight: Factor,
        /// What throttled calls add.
        pub throttling_weight: Factor,
        /// How much better another provider must be to replace the present one.
        pub hysteresis: ShareOrZero,
        /// Blocks that a provider may be behind the others.
        pub lag_max: NonZeroU64,
        /// Attempts for one call.
        pub attempts_max: NonZeroUsize,
        /// The share of calls that may be sent a second time while the first is under way.
        pub hedge_share: ShareOrZero,
        /// The shortest time before that.
        pub hedge_delay_min: DurationOrZero,
    }

    /// How a provider is used. `rpc.provider` says it for all providers.
    pub struct UsageSettings {
        /// What a call costs, compared with other providers.
        pub cost: Factor,
        /// Most weight of calls per second.
        pub rate_max: Option<Rate>,
        /// Requests at the same time.
        pub in_flight_max: NonZeroUsize,
        /// Calls of one request.
        pub batch_max: NonZeroUsize,
        /// How long a call waits for others that go with it.
        pub batch_wait: DurationOrZero,
        /// Longest time for one request.
        pub timeout: Duration,
        /// Most bytes of an answer.
        pub answer_max: ByteSize,
        /// Most blocks of one `eth_getLogs`; learned if not set.
        pub logs_range_max: Option<NonZeroU64>,
    }

    /// A chain. It is served if it has a provider. Keys that are not set are as in `rpc`.
    pub struct ChainSettings {
        /// Its id, which each provider must have.
        pub id: NonZeroU64,
        /// Other names in paths.
        pub aliases: Option<Aliases>,
        /// The time between two blocks.
        pub block_time: Duration,
        /// A block with so many blocks after it is final, if no provider says which one is.
        pub finality_depth: u32,
        /// A page about its blocks and transactions.
        pub explorer: Option<PageUrl>,
        /// How it is served.
        pub serving: Same<ServingSettings>,
        /// Who serves it, by name.
        pub providers: Map<ProviderSettings>,
    }

    /// A provider of a chain. Keys that are not set are as in `rpc.provider`.
    pub struct ProviderSettings {
        /// Where it takes requests.
        pub url: ChainUrl,
        /// Where it takes WebSocket connections.
        pub ws_url: Option<ChainSocketUrl>,
        /// How it is used.
        pub usage: Same<UsageSettings>,
        /// Headers of each request.
        pub headers: Map<Secret>,
    }
}

/// The chains by name.
pub type ChainsSettings = Map<ChainSettings>;

/// Names of methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Arc<[String]>);

impl Methods {
    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl Leaf for Methods {
    const RULE: &'static str = "a list of methods such as [\"eth_call\", \"eth_getLogs\"]";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        let names = text.split(',').map(|name| method(name).map(str::to_owned));
        names.collect::<Option<_>>().map(Self)
    }
}

fn method(text: &str) -> Option<&str> {
    let name = text.trim();
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!name.is_empty() && name.bytes().all(is_of_name)).then_some(name)
}

/// Methods that several providers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorums(Arc<[QuorumConfig]>);

impl Quorums {
    /// One for each method.
    pub fn all(&self) -> &[QuorumConfig] {
        &self.0
    }
}

impl Leaf for Quorums {
    const RULE: &'static str = "a list such as [\"eth_getTransactionReceipt = 2 of 3\"]: of 3 providers that are asked, 2 must \
                                give the same answer; at most 16 are asked";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        let quorums = text.split(',').map(|item| {
            let (name, numbers) = item.split_once('=')?;
            let (needed, asked) = numbers.split_once(" of ")?;
            let (needed, asked) = (needed.trim().parse().ok()?, asked.trim().parse().ok()?);
            let is_possible = 0 < needed && needed <= asked && asked <= 16;
            let method = method(name)?.to_owned();
            is_possible.then_some(QuorumConfig {
                method,
                asked,
                needed,
            })
        });
        quorums.collect::<Option<_>>().map(Self)
    }
}

/// Other names of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aliases(Arc<[String]>);

impl Aliases {
    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl Leaf for Aliases {
    const RULE: &'static str =
        "a list of names of lower-case letters, digits and '-', such as [\"eth\", \"mainnet\"]";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        let names = text.split(',').map(str::trim);
        let names = names.map(|name| super::map::is_name(name).then(|| name.to_owned()));
        names.collect::<Option<_>>().map(Self)
    }
}

/// The URL of a page for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageUrl(String);

impl PageUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for PageUrl {
    const RULE: &'static str = "the URL of a page such as \"https://etherscan.io\"";

    fn from_text(text: &str) -> Option<Self> {
        let is_page = text.starts_with("https://") || text.starts_with("http://");
        let is_text = text.bytes().all(|byte| byte.is_ascii_graphic());
        (is_page && is_text).then(|| Self(text.into()))
    }
}

impl RpcSettings {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.require(
            self.request_max.as_u64() > 0,
            "rpc.request_max must be above 0",
        );
        rules.require(
            self.batch_max.get() <= 10_000,
            "rpc.batch_max must be at most 10000",
        );
        rules.require(
            self.batch_max <= self.client_calls_max,
            "rpc.batch_max must not be above rpc.client_calls_max: such a batch would never be served",
        );
        self.serving.selection.check("rpc.selection", rules);
    }
}

impl SelectionSettings {
    fn check(&self, section: &str, rules: &mut Rules) {
        rules.require(
            self.attempts_max.get() <= 20,
            &format!("{section}.attempts_max must be at most 20"),
        );
    }
}

/// Checks the rules over several keys of the chains.
pub(super) fn check(chains: &ChainsSettings, rules: &mut Rules) {
    let served: BTreeMap<_, _> = chains.0.iter().filter(|it| is_served(it.1)).collect();
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    for (name, chain) in &served {
        let aliases = chain.aliases.iter().flat_map(|aliases| aliases.names());
        let own = [(*name).clone(), chain.id.to_string()];
        for other in own.into_iter().chain(aliases.cloned()) {
            if let Some(first) = names.insert(other.clone(), name.as_str()) {
                rules.0.push(format!(
                    "chains.{first} and chains.{name} must not both be called {other}"
                ));
            }
        }
    }
    for (name, chain) in &chains.0 {
        let section = format!("chains.{name}");
        rules.require(
            !is_served(chain) || !name.bytes().all(|byte| byte.is_ascii_digit()),
            &format!("{section}: the name of a chain needs a letter: numbers are ids"),
        );
        chain
            .serving
            .selection
            .check(&format!("{section}.selection"), rules);
        for (provider, settings) in &chain.providers.0 {
            settings.check(&format!("{section}.providers.{provider}"), rules);
        }
        let providers = chain.providers.0.len();
        for quorum in chain.serving.quorum.iter().flat_map(Quorums::all) {
            let QuorumConfig { method, needed, .. } = quorum;
            rules.require(
                may_have_quorum(method),
                &format!(
                    "{section}.quorum: {method} can have none; only methods that read can, but for eth_blockNumber"
                ),
            );
            rules.require(
                !is_served(chain) || providers >= *needed as usize,
                &format!(
                    "{section}.quorum: {method} needs {needed} equal answers, and the chain has {providers} providers"
                ),
            );
        }
    }
}

impl ProviderSettings {
    fn check(&self, section: &str, rules: &mut Rules) {
        for (name, value) in &self.headers.0 {
            let is_text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
            rules.require(
                value.expose().bytes().all(is_text),
                &format!("{section}.headers.{name} must be made of printable ASCII characters"),
            );
        }
        rules.require(
            (1024..=1 << 40).contains(&self.usage.answer_max.as_u64()),
            &format!("{section}.answer_max must be from 1KiB to 1TiB"),
        );
        rules.require(
            self.usage.batch_max.get() <= 1000,
            &format!("{section}.batch_max must be at most 1000"),
        );
    }
}

fn is_served(chain: &ChainSettings) -> bool {
    !chain.providers.0.is_empty()
}

/// What to write for the keys that a chain of one's own needs besides its id.
const EXAMPLES: [(&str, &str); 2] = [
    (
        "block_time",
        "write the time between two blocks, such as block_time = \"2s\"",
    ),
    (
        "finality_depth",
        "write after how many further blocks a block is final, such as finality_depth = 64",
    ),
];

/// Says of each chain that nobody knows what it lacks, in place of all its keys that are not set; of one with an id,
/// what to write for them; and of one that nobody serves, that this is so.
pub(super) fn explain_unknown(source: &mut Source) {
    let names = source.values.iter().filter_map(|(path, located)| {
        let (name, key) = path.strip_prefix("chains.")?.split_once('.')?;
        Some((name.to_owned(), key == "id", located.origin.clone()))
    });
    // By name: whether it has an id, and whether the id is that of a known chain.
    let mut chains: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for (name, is_id, origin) in names {
        let (has_id, is_known) = chains.entry(name).or_default();
        *has_id |= is_id;
        *is_known |= is_id && origin == Origin::BuiltIn;
    }
    for (name, (has_id, is_known)) in &chains {
        let section = format!("chains.{name}");
        if *has_id {
            for (key, example) in EXAMPLES {
                let unset = format!("{section}.{key} is not set");
                let faults = source.faults.iter_mut();
                for fault in faults.filter(|fault| **fault == unset) {
                    *fault = format!("{unset}; {example}");
                }
            }
        } else {
            let unset = |fault: &String| {
                fault.starts_with(&format!("{section}.")) && fault.ends_with(" is not set")
            };
            source.faults.retain(|fault| !unset(fault));
            let known = chains.iter().filter(|(_, (has_id, _))| *has_id);
            let nearest = nearest(name, known.map(|(name, _)| name.as_str()));
            let advice = nearest.map_or(String::new(), |near| {
                format!("; did you mean chains.{near}?")
            });
            source.faults.push(format!(
                "{section} is no known chain; a chain of your own needs id, block_time and finality_depth{advice}"
            ));
        }
        let providers = format!("{section}.providers.");
        let mut values = source.values.range(providers.clone()..);
        let has_provider = values
            .next()
            .is_some_and(|(path, _)| path.starts_with(&providers));
        if *has_id && !is_known && !has_provider {
            source.faults.push(format!(
                "{section} has no provider; add {section}.providers.NAME.url, or remove it"
            ));
        }
    }
}

/// Removes the chains without a provider, and their keys: nobody can use them.
pub(super) fn forget_unused(chains: &mut ChainsSettings, keys: &mut Vec<Key>) {
    chains.0.retain(|_, chain| is_served(chain));
    keys.retain(|key| {
        let name = key.path.strip_prefix("chains.");
        let name = name.and_then(|rest| rest.split('.').next());
        name.is_none_or(|name| chains.0.contains_key(name))
    });
}
