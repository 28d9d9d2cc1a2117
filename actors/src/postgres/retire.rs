//! The end of a connection at the server.
//!
//! A server works on after its client has left: it notices that only when it has an answer. So a
//! connection that nobody uses any more is ended in steps. The driver says goodbye; if the server does
//! not close the connection then, it is asked to cancel what it works on, again and again, since each
//! request ends one statement at most. PostgreSQL closes a connection when its process for it ends: only
//! then has it let go, and the connection stops counting.
//!
//! A request to cancel ends whatever statement it finds. So nothing is cancelled while a caller waits for
//! an answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cancel::Canceller;
use super::metrics::LOST_CONNECTIONS;
use super::socket::{Kept, Rest, Socket};
use crate::kernel::chain;

/// How long the driver may take to say goodbye, and the server to close an idle connection.
const GOODBYE: Duration = Duration::from_millis(20);

/// The pause between two requests to cancel.
pub(super) const CANCEL_EVERY: Duration = Duration::from_millis(50);

/// A server that neither sends nor closes for so long is unreachable.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How long it may take until the server has let go. A pool waits a bit longer.
const LET_GO_WITHIN: Duration = Duration::from_secs(8);

/// The TLS client for the host of `config`. As in libpq, a certificate may name an address too.
pub(super) fn tls_for(
    tls: &MakeRustlsConnect,
    config: &Config,
) -> Option<<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect> {
    let address = config.get_hostaddrs().first().map(ToString::to_string);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        // Sockets of a file system never use TLS.
        Some(Host::Unix(_)) | None => address.unwrap_or_default(),
    };
    let mut tls = tls.clone();
    MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, &host).ok()
}

/// The task that reads and writes a connection and sees to its end. The end begins when this is dropped.
pub(super) struct DriverTask {
    /// Begins the end of the connection, at the latest when it is dropped.
    retiring: CancellationToken,
    _retire_on_drop: DropGuard,
    /// Cancelled when the server has let go of the connection.
    gone: CancellationToken,
    /// Where the task runs.
    runtime: Handle,
}

impl DriverTask {
    /// Starts `driver`, which owns the socket that is `kept` open, for a connection to the server called
    /// `name`.
    pub(super) fn start(
        driver: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
        kept: Kept,
        canceller: Arc<Canceller>,
        name: String,
    ) -> Self {
        let (retiring, gone) = (CancellationToken::new(), CancellationToken::new());
        let retire = retiring.clone();
        // Also cancelled when the runtime stops.
        let let_go = gone.clone().drop_guard();
        tokio::spawn(async move {
            let _let_go = let_go;
            drive(driver, &retire, &name).await;
            let Some(mut rest) = kept.rest() else {
                return;
            };
            rest.close_sending().await;
            if !wait_until_closed(&mut rest, &canceller).await {
                metrics::counter!(LOST_CONNECTIONS.name).increment(1);
                tracing::warn!(
                    server = name,
                    "a server has neither closed a connection nor answered on it: it may still have it"
                );
            }
        });
        Self {
            _retire_on_drop: retiring.clone().drop_guard(),
            retiring,
            gone,
            runtime: Handle::current(),
        }
    }

    /// Runs `task` where the driver runs: what waits for nothing but answers of the server changes no
    /// threads there.
    pub(super) fn spawn_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Ends the connection, although others may still refer to it. Returns what to wait for until the
    /// server has let go of it.
    pub(super) fn retire(&self) -> impl Future<Output = ()> + Send + use<> {
        self.retiring.cancel();
        self.gone.clone().cancelled_owned()
    }
}

/// Runs the driver until it ends, or for a moment after `retiring`: it ends by itself when the client is
/// dropped and everything is answered.
async fn drive(
    driver: impl Future<Output = Result<(), tokio_postgres::Error>>,
    retiring: &CancellationToken,
    name: &str,
) {
    let mut driver = pin!(driver);
    let ended = tokio::select! {
        ended = &mut driver => Some(ended),
        () = retiring.cancelled() => timeout(GOODBYE, driver).await.ok(),
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(server = name, error = %chain(&error), "database connection ended");
    }
}

/// Waits until the server closes, and cancels what keeps it from that. Returns false when it does not.
async fn wait_until_closed(rest: &mut Rest, canceller: &Arc<Canceller>) -> bool {
    let closed = async {
        loop {
            match timeout(SILENCE_MAX, rest.skip()).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
    };
    let cancelling = async {
        sleep(GOODBYE).await;
        loop {
            canceller.cancel().await;
            sleep(CANCEL_EVERY).await;
        }
    };
    tokio::select! {
        closed = timeout(LET_GO_WITHIN, closed) => closed.unwrap_or(false),
        () = cancelling => false,
    }
}
