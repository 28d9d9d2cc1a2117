//! The parsed form of a database's URL, with what its TLS options name.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{self, Server};
use super::config::PostgresConfig;
use super::tls::{FileState, Tls};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::private_server::ServerUrl;

/// How long the root certificates of the operating system are used before they are read again, while TLS
/// works. They are many, and may be in many files.
const SYSTEM_ROOTS_FOR: Duration = Duration::from_secs(60);

/// What a URL says.
pub(super) struct ParsedUrl {
    url: String,
    pub(super) servers: Arc<[Server]>,
    options: Tls,
    /// The client with the certificates as they were ...
    pub(super) tls: MakeRustlsConnect,
    /// ... in these files ...
    files: Vec<FileState>,
    /// ... at this time.
    read_at: Instant,
    /// TLS has failed with them since.
    has_failed: AtomicBool,
    /// The index of the server to try first: the one of the last connection, or the replica after it.
    pub(super) first: AtomicUsize,
}

impl ParsedUrl {
    /// Reads the certificates, which blocks.
    fn new(url: String, servers: Arc<[Server]>, options: Tls) -> Result<Self, String> {
        let read_at = Instant::now();
        // Looked at before they are read: a later change is found at the next connect.
        let files = options.files();
        Ok(Self {
            tls: options.client()?,
            url,
            servers,
            options,
            files,
            read_at,
            has_failed: AtomicBool::new(false),
            first: AtomicUsize::new(0),
        })
    }

    /// Records that a TLS handshake has failed: perhaps the operating system has other root certificates by
    /// now. There is no file whose change would tell.
    pub(super) fn tls_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// The same with the certificates as they are now. Blocks.
    fn renewed(self: Arc<Self>) -> Result<Arc<Self>, String> {
        let is_due =
            self.has_failed.load(Ordering::Acquire) || self.read_at.elapsed() > SYSTEM_ROOTS_FOR;
        let reads_roots = is_due && self.options.uses_system_roots();
        if !reads_roots && self.files == self.options.files() {
            return Ok(self);
        }
        let servers = Arc::clone(&self.servers);
        let renewed = Self::new(self.url.clone(), servers, self.options.clone())?;
        let first = self.first.load(Ordering::Relaxed);
        renewed.first.store(first, Ordering::Relaxed);
        Ok(Arc::new(renewed))
    }
}

/// The parsed form of the last URL, which rarely changes.
#[derive(Default)]
pub(super) struct LastUrl(Mutex<Option<Arc<ParsedUrl>>>);

impl LastUrl {
    /// Whether a file with a certificate or a key has changed since it was read.
    pub(super) async fn has_changed(&self) -> bool {
        let Some(last) = self.last() else {
            return false;
        };
        let look = move || last.files != last.options.files();
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    /// Asks `url` for its current text, and parses it if it changed. Reads the certificates again if they
    /// changed. `session_attrs` is what a server must be where the URL does not say it.
    pub(super) async fn get(
        &self,
        url: &ServerUrl,
        session_attrs: TargetSessionAttrs,
        settings: &PostgresConfig,
    ) -> Result<Arc<ParsedUrl>, ConnectError> {
        let url = url.get().await?;
        let failed = |message: String| ConnectError::new(ConnectErrorKind::Tls, message);
        let reading = match self.last().filter(|parsed| parsed.url == url) {
            Some(last) => tokio::task::spawn_blocking(move || last.renewed()),
            None => {
                let (servers, options) = address::parse(&url, session_attrs, settings)?;
                tokio::task::spawn_blocking(move || {
                    ParsedUrl::new(url, servers.into(), options).map(Arc::new)
                })
            }
        };
        let parsed = reading
            .await
            .map_err(|_| failed("the runtime stopped while it read certificates".to_owned()))?
            .map_err(failed)?;
        *self.lock() = Some(Arc::clone(&parsed));
        Ok(parsed)
    }

    fn last(&self) -> Option<Arc<ParsedUrl>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<ParsedUrl>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
