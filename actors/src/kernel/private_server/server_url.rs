//! How a pool finds its server.

use std::sync::Arc;

use super::PrivateServer;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// The URL of a server. It may contain a password and must not be logged.
#[derive(Clone)]
pub enum ServerUrl {
    /// The URL from the settings.
    Configured(String),
    /// The URL of a private server, which is started when it is first needed.
    Private(PrivateServer),
    /// There is no server. Every connect fails with this message, which says what to do.
    Missing(Arc<str>),
}

impl ServerUrl {
    /// The URL, once a private server runs.
    pub(crate) async fn get(&self) -> Result<String, ConnectError> {
        match self {
            Self::Configured(url) => Ok(url.clone()),
            Self::Private(server) => Ok(server.ensure_running().await?.url().to_owned()),
            Self::Missing(message) => {
                let message = Arc::clone(message);
                Err(ConnectError::new(ConnectErrorKind::Missing, message))
            }
        }
    }
}
