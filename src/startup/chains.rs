//! Connects chains with their settings and the memory budget.

use std::sync::Arc;

use headroom_actors::chain::config::{
    ChainConfig, ProviderConfig, ProviderUrl, Secret, SelectionConfig,
};
use headroom_actors::chain::filters::FiltersConfig;
use headroom_actors::chain::{ChainDeps, ChainEntry, Chains, start_at_zero};
use headroom_actors::kernel::{SharedStore, SupervisorSpec};
use headroom_actors::memory::Memory;
use headroom_actors::redis::{Cache, Role};

use crate::figures::RpcFigures;
use crate::pools::{Client, Origin, Pool};
use crate::routes::RpcEdge;
use crate::settings::Settings;
use crate::settings::chains::{
    Aliases, ChainSettings, Methods, ProviderSettings, Quorums, SelectionSettings,
};

/// The chains that have a provider.
pub(super) fn chains(settings: &Settings) -> Chains {
    Chains::new(chain_configs(settings).inspect(|chain| start_at_zero(&chain.name)))
}

/// The settings of the chains that have a provider.
pub(crate) fn chain_configs(settings: &Settings) -> impl Iterator<Item = ChainConfig> {
    let chains = settings.chains.0.iter();
    chains.map(|(name, chain)| chain_config(name, chain))
}

/// What chains need of the server. Their owners are below `supervisor`.
pub(super) fn deps(
    settings: &Settings,
    supervisor: &SupervisorSpec,
    memory: &Memory,
    pools: &[Pool],
) -> ChainDeps {
    let answers_max = settings.server.answers_in_flight_max.as_u64();
    // Caches and filters have bounds of their own, and stay when their answers are sent.
    let filters_max = FiltersConfig::default().bytes_max;
    let chains = settings.chains.0.values();
    let kept_max = chains.map(|it| it.serving.cache_max.as_u64().saturating_add(filters_max));
    let bytes_max = kept_max.fold(answers_max, u64::saturating_add);
    ChainDeps {
        supervisor: supervisor.handle(),
        buffers: Arc::new(memory.buffers("chains", bytes_max)),
        pressure: memory.pressure(),
        shared: shared(pools),
    }
}

/// The cache that other servers use too. The private one is of this server alone, and would be started for nothing.
fn shared(pools: &[Pool]) -> Option<Arc<dyn SharedStore>> {
    let mut pools = pools.iter();
    let pool = pools.find(|pool| pool.name == Role::Cache.name())?;
    match (&pool.origin, &pool.client) {
        (Origin::Configured, Client::Redis(redis)) => Some(Arc::new(Cache::new(redis.clone()))),
        _ => None,
    }
}

/// What routes need for requests to `chains`.
pub(super) fn edge(settings: &Settings, chains: &Chains) -> RpcEdge {
    let rpc = &settings.rpc;
    let figures = chains.iter().map(|chain: &ChainEntry| {
        let name = chain.config.name.clone();
        (name, RpcFigures::new(chain))
    });
    RpcEdge::new(
        rpc.request_max.as_u64(),
        rpc.batch_max.get(),
        rpc.client_calls_max.get(),
        rpc.client_websockets_max.get(),
        figures.collect(),
    )
}

fn chain_config(name: &str, settings: &ChainSettings) -> ChainConfig {
    let methods = |methods: &Option<Methods>| {
        methods
            .as_ref()
            .map(|it| it.names().to_vec())
            .unwrap_or_default()
    };
    let aliases = settings.aliases.as_ref().map(Aliases::names);
    let providers = settings.providers.0.iter();
    let explorer = settings.explorer.as_ref();
    let serving = &settings.serving;
    ChainConfig {
        name: name.to_owned(),
        aliases: aliases.unwrap_or_default().to_vec(),
        id: settings.id.get(),
        block_time: settings.block_time,
        finality_depth: settings.finality_depth.into(),
        explorer: explorer.map(|page| page.as_str().to_owned()),
        providers: providers
            .map(|(name, provider)| provider_config(name, provider))
            .collect(),
        selection: selection_config(&serving.selection),
        ttl: serving.ttl,
        cache_max: serving.cache_max.as_u64(),
        logs_range_max: serving.logs_range_max.get(),
        methods_allowed: methods(&serving.methods_allowed),
        methods_denied: methods(&serving.methods_denied),
        quorum: serving
            .quorum
            .as_ref()
            .map(Quorums::all)
            .unwrap_or_default()
            .to_vec(),
    }
}

fn provider_config(name: &str, settings: &ProviderSettings) -> ProviderConfig {
    let ws_url = settings.ws_url.as_ref();
    let headers = settings.headers.0.iter();
    let usage = &settings.usage;
    ProviderConfig {
        name: name.to_owned(),
        url: ProviderUrl::new(settings.url.expose()),
        ws_url: ws_url.map(|url| ProviderUrl::new(url.expose())),
        headers: headers
            .map(|(name, value)| (name.clone(), Secret::new(value.expose())))
            .collect(),
        cost: usage.cost.0,
        rate_max: usage.rate_max.map(|rate| rate.0),
        in_flight_max: count(usage.in_flight_max.get()),
        batch_max: count(usage.batch_max.get()),
        batch_wait: usage.batch_wait.0,
        timeout: usage.timeout,
        answer_max: usage.answer_max.as_u64(),
        logs_range_max: usage.logs_range_max.map(|blocks| blocks.get()),
    }
}

fn selection_config(settings: &SelectionSettings) -> SelectionConfig {
    SelectionConfig {
        latency_weight: settings.latency_weight.0,
        errors_weight: settings.errors_weight.0,
        lag_weight: settings.lag_weight.0,
        cost_weight: settings.cost_weight.0,
        throttling_weight: settings.throttling_weight.0,
        hysteresis: settings.hysteresis.0,
        lag_max: settings.lag_max.get(),
        attempts_max: count(settings.attempts_max.get()),
        hedge_share: settings.hedge_share.0,
        hedge_delay_min: settings.hedge_delay_min.0,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
