//! One connection: how it is opened, watched, reset and closed. [`super::statements`] sends statements
//! over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Server;
use super::cancel::Canceller;
use super::config::{PostgresConfig, ResetAfter};
use super::connect_error::{connect_error, merge, no_answer, socket_error};
use super::error::Error;
use super::freshness::FreshnessTracker;
use super::listen::{self, Notifications};
use super::pooler::Pooled;
use super::retire::{CANCEL_EVERY, DriverTask, tls_for};
use super::server_timeout::ServerTimeout;
use super::socket::{self, Address, Connecting, Socket};
use super::statement_cache::{SharedCaches, StatementCache};
use super::watch::{Watched, WatchedTls};
use super::wire::{TransactionState, Wire};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// The longest time to cancel what the server does for callers that left, and to get its answers.
const CLEAR_WITHIN: Duration = Duration::from_secs(1);

/// A connection to a PostgreSQL server. Several users may share it: the server answers in the order
/// of sending.
pub struct Connection {
    pub(super) client: Client,
    pub(super) statements: StatementCache,
    canceller: Arc<Canceller>,
    driver: DriverTask,
    pub(super) wire: Arc<Wire>,
    pub(super) timeout: ServerTimeout,
    /// What each transaction brings along, on a connection through a pooler.
    pub(super) pooled: Option<Pooled>,
    pub(super) reset_after: ResetAfter,
    pub(super) notifications: Arc<Notifications>,
    /// Host and port.
    pub(super) server: String,
    /// The server's version.
    pub(super) version: String,
    /// What the server had to be when the connection was opened.
    session_attrs: TargetSessionAttrs,
    /// How recent the data is, on a connection to a replica.
    pub(super) freshness: FreshnessTracker,
    /// An exclusive user left while the server worked for it.
    abandoned: AtomicBool,
    /// How many statements without a caller the server is busy with.
    blocked_by: AtomicUsize,
    /// Read by each caller that shares the connection, while it waits for its answer. Written while
    /// statements are cancelled: a request to cancel could end the statement of a caller that waits.
    callers: RwLock<()>,
    /// A request to cancel is on its way, or was given up and may still arrive.
    cancel_may_arrive: AtomicBool,
}

impl Connection {
    /// Opens a connection to `server` within `within`. `caches` is what those of its pool share.
    pub(super) async fn open(
        server: &Server,
        tls: &MakeRustlsConnect,
        within: Duration,
        settings: &PostgresConfig,
        caches: &Arc<SharedCaches>,
    ) -> Result<Self, ConnectError> {
        let deadline = Instant::now() + within;
        let found = timeout_at(deadline, socket::resolve(&server.config)).await;
        let found = found.map_err(|_| no_answer(within).at("look-up of the name"));
        let opened = match found {
            Ok(Ok(found)) => Self::open_at(found, server, tls, deadline, settings, caches).await,
            Ok(Err(error)) => Err(socket_error(&error)),
            Err(error) => Err(error),
        };
        opened.map_err(|error| error.at(&server.name))
    }

    /// Opens a connection at one of `addresses`. Each that answers gets an equal part of what is left of
    /// the time.
    pub(super) async fn open_at(
        addresses: Vec<Address>,
        server: &Server,
        tls: &MakeRustlsConnect,
        deadline: Instant,
        settings: &PostgresConfig,
        caches: &Arc<SharedCaches>,
    ) -> Result<Self, ConnectError> {
        let began = Instant::now();
        let are_several = addresses.len() > 1;
        let mut connecting = Connecting::new(&server.config, addresses);
        let mut errors = Vec::new();
        loop {
            let Ok(next) = timeout_at(deadline, connecting.next()).await else {
                let within = deadline.saturating_duration_since(began);
                let silent = connecting.pending.iter();
                errors.extend(silent.map(|address| no_answer(within).at(&address.to_string())));
                break;
            };
            let Some((address, socket)) = next else {
                break;
            };
            let others = u32::try_from(connecting.pending.len()).unwrap_or(u32::MAX);
            let rest = deadline.saturating_duration_since(Instant::now());
            let part = rest / others.saturating_add(1);
            let opened = match socket {
                Ok(socket) => {
                    let start = Self::start(socket, &address, server, tls, settings, caches);
                    let started = timeout(part, start).await;
                    started.unwrap_or_else(|_| Err(no_answer(part)))
                }
                Err(error) => Err(socket_error(&error)),
            };
            match opened {
                Ok(connection) => return Ok(connection),
                Err(error) if are_several => errors.push(error.at(&address.to_string())),
                Err(error) => errors.push(error),
            }
        }
        Err(merge(&errors))
    }

    /// Starts a session over `socket`.
    async fn start(
        mut socket: Socket,
        address: &Address,
        server: &Server,
        tls: &MakeRustlsConnect,
        settings: &PostgresConfig,
        caches: &Arc<SharedCaches>,
    ) -> Result<Self, ConnectError> {
        let config = &server.config;
        let kept = socket.keep_open();
        let no_tls = || ConnectError::new(ConnectErrorKind::Tls, "cannot set up TLS");
        let with_tls = tls_for(tls, config).ok_or_else(no_tls)?;
        let pooled = settings.is_pooled();
        let wire = if pooled {
            Wire::unnamed()
        } else {
            Wire::default()
        };
        let wire = Arc::new(wire);
        let asks_for_tls = config.get_ssl_mode() != SslMode::Disable;
        let watched = Watched::new(socket, asks_for_tls, Arc::clone(&wire));
        let opened = config.connect_raw(watched, WatchedTls(with_tls)).await;
        let (client, driver) = opened.map_err(|error| connect_error(&error))?;
        let version = driver.parameter("server_version").unwrap_or("unknown");
        let version = version.to_owned();
        let canceller = Arc::new(Canceller {
            token: client.cancel_token(),
            tls: tls.clone(),
            config: config.clone(),
            address: address.clone(),
        });
        let name = server.name.clone();
        let notifications = Arc::<Notifications>::default();
        let driver = listen::drive(driver, Arc::clone(&notifications));
        let driver = DriverTask::start(driver, kept, Arc::clone(&canceller), name);
        let session_attrs = config.get_target_session_attrs();
        let timeout = match look(&client, session_attrs).await {
            Ok(timeout) => timeout,
            Err(error) => {
                drop(client);
                driver.retire().await;
                return Err(error);
            }
        };
        Ok(Self {
            statements: StatementCache::new(
                settings.statements_max,
                Arc::clone(caches),
                Arc::clone(&wire),
            ),
            client,
            canceller,
            driver,
            wire,
            timeout,
            pooled: pooled.then(|| Pooled::new(settings, config)),
            reset_after: settings.reset_after,
            notifications,
            server: server.name.clone(),
            version,
            session_attrs,
            freshness: FreshnessTracker::default(),
            abandoned: AtomicBool::new(false),
            blocked_by: AtomicUsize::new(0),
            callers: RwLock::new(()),
            cancel_may_arrive: AtomicBool::new(false),
        })
    }

    /// Sends `request`, on which the server may work for about `within`. `None` in a transaction, which has
    /// a limit of its own. Through a pooler, the session is not this connection's to change.
    pub(super) async fn send_within<T>(
        &self,
        within: Option<Duration>,
        request: impl Future<Output = T>,
    ) -> T {
        match within {
            Some(within) if self.pooled.is_none() => {
                self.timeout.send(&self.client, within, request).await
            }
            _ => request.await,
        }
    }

    /// What limits the statements of a transaction, which has `within`.
    pub(super) fn limit_of_transaction(&self, within: Duration) -> Limit {
        match (&self.pooled, self.reset_after) {
            (Some(pooled), _) => Limit::Statements(pooled.of_transaction(within)),
            // The reset would take the session's timeout back.
            (None, ResetAfter::EveryTransaction) => {
                Limit::Statements(vec![self.timeout.of_transaction(within)])
            }
            (None, ResetAfter::SessionStatements) => Limit::Session(within),
        }
    }

    /// Whether the connection is known to have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the connection, which nobody uses any more. Returns what to wait for until the server has
    /// let go of it, or seems to be unreachable.
    pub(super) fn retire(&self) -> impl Future<Output = ()> + Send + use<> {
        self.driver.retire()
    }

    /// Runs `task` on the thread that reads the answers of the server.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.driver.spawn_beside(task);
    }

    /// `error` with what is known of why the connection was lost.
    pub(super) fn explain(&self, mut error: Error) -> Error {
        if let Error::Lost { reason, .. } = &mut error
            && let Some(known) = self.wire.why_lost()
        {
            *reason = known;
        }
        error
    }

    /// Whether `error` shows that a server which took writes takes none any more.
    pub(super) fn was_demoted(&self, error: &Error) -> bool {
        self.session_attrs == TargetSessionAttrs::ReadWrite && error.is_read_only()
    }

    /// Whether the connection was opened to a server that takes no writes.
    pub(super) fn is_for_replicas(&self) -> bool {
        self.session_attrs == TargetSessionAttrs::ReadOnly
    }

    /// Waits for the answers to everything sent before.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        let answered = self.client.check_connection().await;
        answered.map_err(|error| Error::of(&error, false))
    }

    /// Whether the session is in no transaction, as far as the server has told its state.
    pub(super) fn is_at_rest(&self) -> bool {
        self.wire.is_settled() && self.wire.transaction() == TransactionState::None
    }

    /// Whether the server has been busy for long with statements whose callers left.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_by.load(Ordering::Acquire) > 0
    }

    /// Marks the connection as blocked by one more statement, until the mark is dropped.
    pub(super) fn mark_blocked(&self) -> BlockedMark<'_> {
        self.blocked_by.fetch_add(1, Ordering::AcqRel);
        BlockedMark(self)
    }

    /// Records that an exclusive user left while the server works for it.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Whether the connection's only user, or the last one, left while the server works for it.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Counts the caller as one that waits for an answer, until the guard is dropped. Waits while
    /// statements are cancelled.
    ///
    /// # Errors
    /// [`Error::Lost`] if a request to cancel may still arrive, which could end the caller's statement.
    pub(super) async fn join(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let joined = self.callers.read().await;
        if self.cancel_may_arrive.load(Ordering::Acquire) {
            return Err(Error::Lost {
                sent: false,
                reason: "an earlier statement could not be cancelled in time".to_owned(),
            });
        }
        Ok(joined)
    }

    /// Cancels what the server does for callers that left, unless others wait for answers: then it
    /// returns `None` at once.
    pub(super) async fn clear_if_unused(&self) -> Option<Result<(), Error>> {
        let _no_callers = self.callers.try_write().ok()?;
        self.cancel_may_arrive.store(true, Ordering::Release);
        let cleared = timeout(CLEAR_WITHIN, self.clear()).await;
        let cleared = cleared.unwrap_or(Err(Error::Deadline { sent: false }));
        self.cancel_may_arrive
            .store(cleared.is_err(), Ordering::Release);
        Some(cleared)
    }

    /// Cancels what the server does, until it has answered everything. Nobody may wait for an answer.
    /// The connection is fit afterwards: what is sent after the server has dealt with a request to cancel
    /// is not hit by it.
    async fn clear(&self) -> Result<(), Error> {
        loop {
            if !self.canceller.cancel().await {
                return Err(Error::Lost {
                    sent: true,
                    reason: "its statement could not be cancelled".to_owned(),
                });
            }
            if let Ok(answered) = timeout(CANCEL_EVERY, self.ping()).await {
                return answered;
            }
        }
    }

    /// Prepares the connection for its next user: cancels what the last user left behind, rolls back and
    /// resets the session.
    pub(super) async fn clean(&self) -> Result<(), Error> {
        if self.is_abandoned() {
            self.clear().await?;
            self.abandoned.store(false, Ordering::Release);
        } else {
            self.ping().await?;
        }
        self.rollback(true).await
    }
}

/// Checks whether the server of a new session is what the URL asks for, and reads the session's timeout.
async fn look(client: &Client, wanted: TargetSessionAttrs) -> Result<ServerTimeout, ConnectError> {
    let questions = "SHOW transaction_read_only; SHOW statement_timeout";
    let answers = client.simple_query(questions).await;
    let answers = answers.map_err(|error| connect_error(&error))?;
    let mut shown = answers.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten(),
        _ => None,
    });
    let refused = |message| Err(ConnectError::new(ConnectErrorKind::Refused, message));
    match (wanted, shown.next()) {
        (TargetSessionAttrs::ReadWrite, Some("on")) => {
            refused("the database does not allow writes")
        }
        (TargetSessionAttrs::ReadOnly, Some("off")) => refused("the database is not read only"),
        _ => Ok(ServerTimeout::new(shown.next().unwrap_or_default())),
    }
}

/// What limits the statements of a transaction.
pub(super) enum Limit {
    /// Statements behind its begin.
    Statements(Vec<String>),
    /// The session's timeout, which has to fit this time.
    Session(Duration),
}

/// See [`Connection::mark_blocked`].
pub(super) struct BlockedMark<'a>(&'a Connection);

impl Drop for BlockedMark<'_> {
    fn drop(&mut self) {
        self.0.blocked_by.fetch_sub(1, Ordering::AcqRel);
    }
}
