//! The parsed form of a database's URL, with what its TLS options name.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{self, Server};
use super::config::PostgresConfig;
use super::tls;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::private_server::ServerUrl;

/// What a URL says.
pub(super) struct ParsedUrl {
    url: String,
    pub(super) servers: Vec<Server>,
    pub(super) tls: MakeRustlsConnect,
    /// The index of the server to try first: the one of the last connection, or the replica after it.
    pub(super) first: AtomicUsize,
}

/// The parsed form of the last URL, which rarely changes.
#[derive(Default)]
pub(super) struct LastUrl(Mutex<Option<Arc<ParsedUrl>>>);

impl LastUrl {
    /// Asks `url` for its current text, and parses it if it changed. `session_attrs` is what a server
    /// must be where the URL does not say it.
    pub(super) async fn get(
        &self,
        url: &ServerUrl,
        session_attrs: TargetSessionAttrs,
        settings: &PostgresConfig,
    ) -> Result<Arc<ParsedUrl>, ConnectError> {
        let url = url.get().await?;
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lock().clone();
        if let Some(parsed) = last.filter(|parsed| parsed.url == url) {
            return Ok(parsed);
        }
        let (servers, verification) = address::parse(&url, session_attrs, settings)?;
        let failed = |message: String| ConnectError::new(ConnectErrorKind::Tls, message);
        let tls = tokio::task::spawn_blocking(move || tls::connector(&verification))
            .await
            .map_err(|_| failed("the runtime stopped while it read root certificates".to_owned()))?
            .map_err(failed)?;
        let parsed = Arc::new(ParsedUrl {
            url,
            servers,
            tls,
            first: AtomicUsize::new(0),
        });
        *lock() = Some(Arc::clone(&parsed));
        Ok(parsed)
    }
}
