//! `GET /api/chains`: the chains that are served. `GET /api/chains/{chain}`: one of them, with its settings and its state;
//! `GET /api/chains/{chain}/providers`: who serves it. To look at a chain never opens it.
//!
//! `POST /api/chains/{chain}/providers/{provider}/drain`: takes a provider out of use; `…/resume`: back into use.

use actix_web::{Responder, web};
use headroom_actors::chain::config::{ProviderConfig, ProviderUrl};
use headroom_actors::chain::{ChainEntry, ChainStatus, ProviderPlace, SetDrained};
use headroom_actors::lazy::Acquire;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::rpc::find;
use crate::chains::{Report, State, reports, status};
use crate::handles::RequestHandles;
use crate::last_known::ANSWER_WITHIN;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// The chains that are served.
#[derive(Serialize, ToSchema)]
struct Chains {
    /// All of them, by name.
    chains: Vec<Report>,
}

pub(super) fn list_docs() -> Docs {
    Docs::new("The chains that are served")
        .answer::<Chains>(200, "The chains. Those that are closed have no status.")
        .example(json!({ "chains": [{
            "name": "ethereum", "id": 1, "explorer": "https://etherscan.io", "state": "open", "status": example(),
        }] }))
}

/// The state of a chain in examples.
fn example() -> Value {
    json!({
        "head": 23456789,
        "head_hash": "0x9b1f0c7ae25d4e0b8d6f3a2c1e0f9d8caf1349b9f5f9a1a6a0404dea36dcc949",
        "finalized": 23456701, "head_age_seconds": 4.2,
        "providers": [{
            "name": "node", "url": "https://node.example.com", "is_used": true, "reason": null, "score": 0.12,
            "lag_blocks": 0, "head": 23456789, "latency_seconds": 0.021, "latency_p95_seconds": 0.055,
            "error_rate": 0.0, "throttle_rate": 0.0, "in_flight": 3,
        }],
    })
}

pub(super) async fn list(handles: RequestHandles) -> impl Responder {
    let chains = reports(&handles.chains, ANSWER_WITHIN).await;
    web::Json(Chains { chains })
}

/// One chain, with its settings and its state.
#[derive(Serialize, ToSchema)]
#[schema(as = ChainDetails)]
struct Details {
    /// Its name.
    name: String,
    /// Its id, which each provider must have.
    id: u64,
    /// Other names in paths.
    aliases: Vec<String>,
    /// The time between two blocks.
    block_time_seconds: f64,
    /// A block with so many blocks after it is final, if no provider says which one is.
    finality_depth: u64,
    /// A page about its blocks and transactions.
    explorer: Option<String>,
    /// How long it stays open when it is not used; for ever if `null`.
    ttl_seconds: Option<f64>,
    /// The most bytes of kept answers.
    cache_max_bytes: u64,
    /// The most blocks of an `eth_getLogs`.
    logs_range_max: u64,
    /// Whether it is open.
    state: State,
    /// Its heads and its providers; `null` while it is closed.
    status: Option<ChainStatus>,
}

fn of_chain(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable(
            "chain",
            "The name, an alias or the id of a chain.",
            "ethereum",
        )
        .calls_actors()
}

pub(super) fn one_docs() -> Docs {
    of_chain("One chain, with its settings and its state")
        .answer::<Details>(200, "The chain.")
        .example(json!({
            "name": "ethereum", "id": 1, "aliases": ["eth", "mainnet"], "block_time_seconds": 12.0, "finality_depth": 96,
            "explorer": "https://etherscan.io", "ttl_seconds": 3600.0, "cache_max_bytes": 67108864,
            "logs_range_max": 100000, "state": "open", "status": example(),
        }))
}

pub(super) async fn one(
    handles: RequestHandles,
    name: web::Path<String>,
) -> Result<impl Responder, Problem> {
    let chain = find(&handles.chains, &name)?;
    let status = status(chain, handles.left()).await?;
    let config = &chain.config;
    Ok(web::Json(Details {
        name: config.name.clone(),
        id: config.id,
        aliases: config.aliases.clone(),
        block_time_seconds: config.block_time.as_secs_f64(),
        finality_depth: config.finality_depth,
        explorer: config.explorer.clone(),
        ttl_seconds: config.ttl.map(|ttl| ttl.as_secs_f64()),
        cache_max_bytes: config.cache_max,
        logs_range_max: config.logs_range_max,
        state: state_of(status.as_ref()),
        status,
    }))
}

fn state_of(status: Option<&ChainStatus>) -> State {
    match status {
        Some(_) => State::Open,
        None => State::Closed,
    }
}

/// The providers of a chain.
#[derive(Serialize, ToSchema)]
#[schema(as = ChainProviders)]
struct Providers {
    /// The name of the chain.
    chain: String,
    /// Whether it is open. While it is closed, no provider is used.
    state: State,
    /// All of them, by name.
    providers: Vec<Provider>,
}

/// A provider of a chain.
#[derive(Serialize, ToSchema)]
#[schema(as = ChainProvider)]
struct Provider {
    /// Its name.
    name: String,
    /// The scheme, host and port of the URL that takes requests.
    url: String,
    /// Those of the URL that takes WebSocket connections.
    ws_url: Option<String>,
    /// What a call costs, compared with the others.
    cost: f64,
    /// The most weight of calls per second.
    rate_max: Option<f64>,
    /// The most requests at the same time.
    in_flight_max: u32,
    /// The most calls of one request.
    batch_max: u32,
    /// How long one request may take.
    timeout_seconds: f64,
    /// How it does, and why it is used or not; `null` while the chain is closed.
    place: Option<ProviderPlace>,
}

impl Provider {
    fn new(config: &ProviderConfig, status: Option<&ChainStatus>) -> Self {
        let mut places = status.into_iter().flat_map(|status| &status.providers);
        Self {
            name: config.name.clone(),
            url: config.url.shown(),
            ws_url: config.ws_url.as_ref().map(ProviderUrl::shown),
            cost: config.cost,
            rate_max: config.rate_max,
            in_flight_max: config.in_flight_max,
            batch_max: config.batch_max,
            timeout_seconds: config.timeout.as_secs_f64(),
            place: places.find(|place| place.name == config.name).cloned(),
        }
    }
}

pub(super) fn providers_docs() -> Docs {
    of_chain("The providers of a chain, and why each is used or not")
        .answer::<Providers>(200, "The providers.")
        .example(json!({ "chain": "ethereum", "state": "closed", "providers": [{
            "name": "node", "url": "https://node.example.com", "ws_url": null, "cost": 1.0, "rate_max": null,
            "in_flight_max": 256, "batch_max": 1, "timeout_seconds": 10.0, "place": null,
        }] }))
}

pub(super) async fn providers(
    handles: RequestHandles,
    name: web::Path<String>,
) -> Result<impl Responder, Problem> {
    let chain = find(&handles.chains, &name)?;
    let status = status(chain, handles.left()).await?;
    let providers = chain.config.providers.iter();
    Ok(web::Json(Providers {
        chain: chain.config.name.clone(),
        state: state_of(status.as_ref()),
        providers: providers
            .map(|config| Provider::new(config, status.as_ref()))
            .collect(),
    }))
}

/// A provider in a path.
#[derive(Deserialize)]
pub(super) struct ProviderPath {
    chain: String,
    provider: String,
}

/// Whether a provider is drained.
#[derive(Serialize, ToSchema)]
#[schema(as = DrainedProvider)]
struct Drained {
    /// The name of the chain.
    chain: String,
    /// The name of the provider.
    provider: String,
    /// Whether it is out of use because an operator wants it so.
    is_drained: bool,
}

fn of_provider(summary: &'static str) -> Docs {
    of_chain(summary)
        .variable("provider", "The name of a provider.", "node")
        .answer::<Drained>(200, "It is done.")
        .problems(&[
            ProblemKind::Unusable,
            ProblemKind::InsufficientMemory,
            ProblemKind::NeverFits,
            ProblemKind::NotReady,
        ])
}

pub(super) fn drain_docs() -> Docs {
    of_provider("Take a provider out of use").text(
        "It gets no new calls, and completes those that it has. A closed chain is opened for that. It stays drained until it is \
         resumed or the server is restarted.",
    )
}

pub(super) fn resume_docs() -> Docs {
    of_provider("Take a drained provider back into use")
}

pub(super) async fn drain(
    handles: RequestHandles,
    path: web::Path<ProviderPath>,
) -> Result<impl Responder, Problem> {
    set_drained(handles, path.into_inner(), true).await
}

pub(super) async fn resume(
    handles: RequestHandles,
    path: web::Path<ProviderPath>,
) -> Result<impl Responder, Problem> {
    set_drained(handles, path.into_inner(), false).await
}

async fn set_drained(
    handles: RequestHandles,
    path: ProviderPath,
    is_drained: bool,
) -> Result<impl Responder, Problem> {
    let chain = find(&handles.chains, &path.chain)?;
    let provider = path.provider;
    let mut known = chain.config.providers.iter();
    if !known.any(|config| config.name == provider) {
        return Err(no_provider(chain));
    }
    let name = chain.resource.to_string();
    let lease = handles.loader.ask(Acquire { name }, handles.left());
    let _lease = lease.await??;
    let set = SetDrained {
        provider: provider.clone(),
        is_drained,
    };
    if !chain.handle.ask(set, handles.left()).await? {
        return Err(no_provider(chain));
    }
    Ok(web::Json(Drained {
        chain: chain.config.name.clone(),
        provider,
        is_drained,
    }))
}

fn no_provider(chain: &ChainEntry) -> Problem {
    let providers = chain.config.providers.iter();
    let names: Vec<_> = providers.map(|provider| provider.name.as_str()).collect();
    let detail =
        "the chain has no such provider; GET /api/chains/{chain}/providers lists those that it has";
    Problem::new(ProblemKind::NotFound, detail).with("providers", names)
}
