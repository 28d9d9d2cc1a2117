//! The chains as routes and the status see them. To look at a chain never opens it.

use std::time::Duration;

use futures_util::future::join_all;
use headroom_actors::chain::{ChainEntry, ChainStatus, Chains, ReadStatus};
use headroom_actors::kernel::AskError;
use serde::Serialize;
use utoipa::ToSchema;

/// Whether a chain is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChainState)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has used it of late. The next call opens it.
    Closed,
    /// Its providers are watched.
    Open,
    /// It is open, and its owner did not answer in time.
    NoAnswer,
}

/// What is known of a chain.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ChainReport)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// A page about its blocks and transactions.
    pub explorer: Option<String>,
    /// Whether it is open.
    pub state: State,
    /// Its heads and its providers, if it is open and has answered.
    #[schema(required = true)]
    pub status: Option<ChainStatus>,
}

impl Report {
    /// What is known of `chain`, whose owner has so much time to answer.
    pub async fn of(chain: &ChainEntry, within: Duration) -> Self {
        let (state, status) = match status(chain, within).await {
            Ok(Some(status)) => (State::Open, Some(status)),
            Ok(None) => (State::Closed, None),
            Err(_) => (State::NoAnswer, None),
        };
        let config = &chain.config;
        Self {
            name: config.name.clone(),
            id: config.id,
            explorer: config.explorer.clone(),
            state,
            status,
        }
    }
}

/// What is known of all chains, which are asked at the same time.
pub async fn reports(chains: &Chains, within: Duration) -> Vec<Report> {
    join_all(chains.iter().map(|chain| Report::of(chain, within))).await
}

/// What the owner of a chain says. `None` if the chain is closed.
///
/// # Errors
/// The owner does not answer in time.
pub async fn status(chain: &ChainEntry, within: Duration) -> Result<Option<ChainStatus>, AskError> {
    if !chain.handle.is_up() {
        return Ok(None);
    }
    match chain.handle.ask(ReadStatus, within).await {
        Ok(status) => Ok(Some(status)),
        // It was closed at this moment.
        Err(_) if !chain.handle.is_up() => Ok(None),
        Err(error) => Err(error),
    }
}
