//! One look at a provider without its actor, for those who check the settings.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;

use super::endpoint::{TransportError, WsTarget};
use super::fault::Fault;
use super::served_chain::{ask_number, ensure_chain};
use super::shared::Shared;
use super::subscription::open;
use super::tls::Tls;
use super::transport::Transport;
use crate::chain::config::ProviderConfig;
use crate::kernel::{BudgetError, BufferReservation, Buffers};

/// The largest answer. All that is asked for is a number.
const ANSWER_MAX: u64 = 64 * 1024;

/// How long the provider may take to tell its newest block.
const BLOCK_WITHIN: Duration = Duration::from_secs(5);

/// What a provider has told.
#[derive(Debug)]
pub struct Trial {
    /// The scheme, host and port of its URL.
    pub url: String,
    /// The number of its newest block.
    pub newest: u64,
    /// Whether it has a WebSocket, which works.
    pub has_socket: bool,
}

/// Why a provider would get no calls.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Its settings cannot be used.
    #[error(transparent)]
    Settings(#[from] TransportError),
    /// It cannot be reached, serves another chain, or does not answer as a provider does.
    #[error(transparent)]
    Calls(#[from] Fault),
    /// It takes calls, and no subscription to new blocks.
    #[error("its WebSocket: {0}")]
    Socket(Fault),
}

/// Connects to a provider, lets it tell its chain and its newest block, and subscribes to new blocks if it has a WebSocket.
///
/// # Errors
/// [`TrialError`]. No text of it has a secret of the settings.
pub async fn try_provider(config: ProviderConfig, chain_id: u64) -> Result<Trial, TrialError> {
    let config = ProviderConfig {
        answer_max: ANSWER_MAX,
        ..config
    };
    let (heads, _) = watch::channel(None);
    let (chain, block_time) = ("".into(), Duration::ZERO);
    let shared = Shared::new(chain, config, chain_id, block_time, Arc::default(), heads);
    let shared = Arc::new(shared);
    let (config, tls) = (&shared.config, Tls::default());
    let socket = WsTarget::of(config)?;
    let connects = Arc::clone(&shared.connects);
    let transport = Transport::new(config, &tls, Arc::new(NoBudget), connects).await?;
    ensure_chain(&shared, &transport, false).await?;
    let newest = ask_number(&shared, &transport, "eth_blockNumber", BLOCK_WITHIN).await?;
    if let Some(socket) = &socket {
        let opened = open(&shared, socket, &tls).await;
        opened.map_err(TrialError::Socket)?;
    }
    Ok(Trial {
        url: config.url.shown(),
        newest,
        has_socket: socket.is_some(),
    })
}

/// The account of a process that ends after its trials. [`ANSWER_MAX`] is the bound.
struct NoBudget;

impl Buffers for NoBudget {
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        Ok(BufferReservation::new(Arc::new(Self), bytes))
    }

    fn read_memory(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn fill(&self, _: u64) {}

    fn release(&self, _: u64, _: u64) {}
}
