//! The seam between the HTTP edge and the actors: the root supervisor is started before the HTTP
//! server takes its first request and stopped after it answered its last.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Gate, StartupError};
use crate::settings::Settings;

/// The running actors.
pub(super) struct ActorTree;

impl ActorTree {
    /// Starts everything that the routes ask, and opens `ready` once it can be asked.
    pub(super) async fn start(
        _settings: watch::Receiver<Arc<Settings>>,
        ready: Gate,
    ) -> Result<Self, StartupError> {
        ready.open();
        Ok(Self)
    }

    /// Stops everything, in reverse order.
    pub(super) async fn stop(self) {}
}
