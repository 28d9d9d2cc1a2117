//! The owner of a chain with several providers: a real anvil behind proxies that make faults.

mod failover;
mod logs;
mod publishing;
mod quorum;
mod reading;
mod subscribing;

use std::sync::Arc;
use std::time::Duration;

use headroom_test_support::anvil::{Anvil, CHAIN_ID};
use headroom_test_support::rpc_proxy::RpcProxy;
use headroom_test_support::wait::wait_for_async;
use serde_json::{Value, json};

use super::config::{ChainConfig, ProviderConfig, ProviderUrl, SelectionConfig};
use super::rpc::{Call, Outcome};
use super::{
    Chain, ChainDeps, ChainEntry, ChainError, ChainStatus, Chains, ProviderPlace, ReadStatus,
    Serve, SetDrained,
};
use crate::kernel::pressure::{PressureWriter, channel};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::kernel::{Root, SupervisorSpec};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(30);

const MIB: u64 = 1024 * 1024;

fn number(text: &Value) -> u64 {
    let digits = text.as_str().and_then(|text| text.strip_prefix("0x"));
    u64::from_str_radix(digits.unwrap(), 16).unwrap()
}

fn provider(name: &str, url: String) -> ProviderConfig {
    ProviderConfig {
        name: name.into(),
        url: ProviderUrl::new(url),
        ws_url: None,
        headers: Vec::new(),
        cost: 1.0,
        rate_max: None,
        in_flight_max: 64,
        batch_max: 1,
        batch_wait: Duration::from_millis(2),
        timeout: Duration::from_secs(5),
        answer_max: 16 * MIB,
        logs_range_max: None,
    }
}

/// As in `config/default.toml`.
pub(super) fn selection() -> SelectionConfig {
    SelectionConfig {
        latency_weight: 1.0,
        errors_weight: 8.0,
        lag_weight: 0.5,
        cost_weight: 0.5,
        throttling_weight: 4.0,
        hysteresis: 0.2,
        lag_max: 8,
        attempts_max: 4,
        hedge_share: 0.05,
        hedge_delay_min: Duration::from_millis(50),
    }
}

fn config(providers: Vec<ProviderConfig>) -> ChainConfig {
    ChainConfig {
        name: "test".into(),
        aliases: Vec::new(),
        id: CHAIN_ID,
        block_time: Duration::from_millis(200),
        finality_depth: 64,
        explorer: None,
        providers,
        selection: selection(),
        ttl: None,
        cache_max: MIB,
        logs_range_max: 100_000,
        methods_allowed: Vec::new(),
        methods_denied: Vec::new(),
        quorum: Vec::new(),
    }
}

async fn open(system: &TestSystem, entry: &ChainEntry, deps: &ChainDeps) -> Root {
    let children = Chain::children(entry, deps).into_iter();
    let spec = children.fold(SupervisorSpec::new("root"), SupervisorSpec::child);
    system.start(spec).await
}

/// A chain whose providers are proxies in front of one node.
struct TestChain {
    entry: ChainEntry,
    proxies: Vec<RpcProxy>,
    deps: ChainDeps,
    buffers: FixedBuffers,
    root: Root,
    _pressure: PressureWriter,
}

impl TestChain {
    /// Starts one with so many providers, and waits until all are used.
    async fn start(system: &TestSystem, node: &Anvil, providers: usize) -> Self {
        Self::start_with(system, node, providers, |_| {}).await
    }

    async fn start_with(
        system: &TestSystem,
        node: &Anvil,
        providers: usize,
        change: impl FnOnce(&mut ChainConfig),
    ) -> Self {
        let proxies: Vec<_> = (0..providers)
            .map(|_| RpcProxy::start(node.url()))
            .collect();
        let named = proxies.iter().zip(["one", "two", "three", "four"]);
        let mut config = config(
            named
                .map(|(proxy, name)| provider(name, proxy.url()))
                .collect(),
        );
        change(&mut config);
        let (pressure, reader) = channel();
        // No provider has a supervisor besides the test's.
        let supervisor = SupervisorSpec::new("chains").handle();
        let buffers = FixedBuffers::new(256 * MIB);
        let deps = ChainDeps {
            supervisor,
            buffers: Arc::new(buffers.clone()),
            pressure: reader,
            shared: None,
        };
        let chains = Chains::new([config]);
        let entry = chains.find("test").unwrap().clone();
        let chain = Self {
            root: open(system, &entry, &deps).await,
            entry,
            proxies,
            deps,
            buffers,
            _pressure: pressure,
        };
        chain
            .until(|status| {
                let used = status.providers.iter();
                used.filter(|it| it.is_used && it.head.is_some()).count() == providers
            })
            .await;
        chain
    }

    /// Closes it, and opens it again.
    async fn reopen(self, system: &TestSystem) -> Self {
        self.root.stop().await;
        Self {
            root: open(system, &self.entry, &self.deps).await,
            ..self
        }
    }

    /// Takes a provider out of use, or back into use. Returns whether there is one of that name.
    async fn set_drained(&self, provider: &str, is_drained: bool) -> bool {
        let set = SetDrained {
            provider: provider.into(),
            is_drained,
        };
        self.entry.handle.ask(set, LONG).await.unwrap()
    }

    async fn serve(&self, calls: Vec<(&str, Value)>) -> Vec<Result<Outcome, ChainError>> {
        let calls = calls
            .into_iter()
            .map(|(method, params)| Arc::new(Call::new(method, params.to_string())));
        let serve = Serve {
            calls: calls.collect(),
            caller: "test".into(),
        };
        self.entry.handle.ask(serve, LONG).await.unwrap()
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Outcome, ChainError> {
        self.serve(vec![(method, params)]).await.remove(0)
    }

    /// The result of a call that has one.
    async fn result(&self, method: &str, params: Value) -> Value {
        match self.ask(method, params).await {
            Ok(Outcome::Result(text)) => serde_json::from_slice(&text).unwrap(),
            other => panic!("{method}: {other:?}"),
        }
    }

    /// The error of a call that has one.
    async fn error(&self, method: &str, params: Value) -> Value {
        match self.ask(method, params).await {
            Ok(Outcome::Error(text)) => serde_json::from_slice(&text).unwrap(),
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn status(&self) -> ChainStatus {
        self.entry.handle.ask(ReadStatus, LONG).await.unwrap()
    }

    /// Waits until the status is such. The providers are used meanwhile, so that they are looked after.
    async fn until(&self, is_so: impl Fn(&ChainStatus) -> bool) {
        wait_for_async(LONG, async || {
            self.ask("eth_chainId", json!([])).await.ok();
            let status = self.status().await;
            is_so(&status).then_some(()).ok_or(status)
        })
        .await;
    }

    async fn place(&self, name: &str) -> ProviderPlace {
        let mut providers = self.status().await.providers.into_iter();
        providers.find(|it| it.name == name).unwrap()
    }

    async fn stop(self) {
        self.root.stop().await;
    }
}
