//! The section on chains.

use headroom_actors::chain;
use headroom_actors::kernel::AskError;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Parts, Section};
use crate::chains::{Report, reports};
use crate::last_known::ANSWER_WITHIN;

pub(super) struct Chains(chain::Chains);

/// The chains that are served.
#[derive(Serialize, ToSchema)]
#[schema(as = ChainsSection)]
pub(super) struct Snapshot {
    /// All of them, by name.
    chains: Vec<Report>,
}

impl Section for Chains {
    const NAME: &'static str = "chains";
    type Answer = Snapshot;

    fn of(parts: &Parts<'_>) -> Self {
        Self(parts.handles.chains.clone())
    }

    async fn snapshot(&self) -> Result<Snapshot, AskError> {
        // One that does not answer leaves the lines of the others.
        let chains = reports(&self.0, ANSWER_WITHIN / 2).await;
        Ok(Snapshot { chains })
    }
}
