//! Private servers: a PostgreSQL or a Redis of our own, started from installed binaries when the
//! first caller needs it, and supervised like everything else.
//!
//! Owned here is what they have in common: the folder that is theirs alone (`data_dir`), the user
//! without privileges that they run as (`account`), what an earlier run left behind (`orphans`),
//! and the one start that any number of callers wait for (`PrivateServer::ensure_running`). What makes a
//! PostgreSQL or a Redis of it is a `Server`, in the room that uses it.
//!
//! Who may get in: nobody but the server's user and root. There is no TCP listener; the socket lies
//! in a folder of mode 0700; and a password of 128 random bits, in a file of mode 0600 in that
//! folder, is asked for on top, since the user may be one that others run as, too (`nobody`), and
//! since the folder of a socket with a long path lies elsewhere. `peer`, PostgreSQL's look at who is
//! on the other end, is no choice: a server that runs as root is root there, not the cluster's user.
//!
//! When it fails: after a start its process is restarted by its supervisor, with backoff, and each
//! time as carefully as the first time. When that fails too often the supervisor gives up, and the
//! next caller after a pause starts it again; until then callers are told at once what is wrong.
//!
//! The folder is locked as long as a server of this process uses it. So whatever else is found to
//! work in it is an orphan, and is ended before ours starts: two never write to the same files.

mod binaries;
mod config;
mod data_dir;
mod error;
mod orphans;
mod process_owner;
mod run_as;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;
use tokio::time::Instant;

pub use binaries::SearchPath;
pub(crate) use config::percent_encoded;
pub use config::{PrivateServerConfig, Socket};
pub(crate) use data_dir::{DataDir, new_secret};
pub use error::PrivateServerError;
pub(crate) use orphans::Orphans;
pub(crate) use run_as::RunAs;
pub use state::ServerState;

use super::backoff::Backoff;
use super::budget::{Budget, Reservation, ReservationEntry, ReservationRequest};
use super::child::{ChildSpec, Restart};
use super::exit::Exit;
use super::handle::Handle;
use super::pool::{ConnectError, Locate};
use super::process::ProcessSpec;
use super::supervisor::{StartChildError, SupervisorHandle, SupervisorSpec};
use process_owner::ProcessOwner;

/// Restarts in [`RESTARTS_PERIOD`] after which the supervisor gives up.
const RESTARTS_MAX: u32 = 6;

/// See [`RESTARTS_MAX`].
const RESTARTS_PERIOD: Duration = Duration::from_secs(60);

/// Its name among the children of the room's supervisor, beside the pools.
const CHILD: &str = "server";

/// How long an orderly stop may take: what is in memory is written to the disk.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// What tells one private server from another.
pub(crate) trait Server: Send + Sync + 'static {
    /// Its name in logs, in errors and in the ledger.
    fn name(&self) -> &'static str;

    /// The user that packages make for it.
    fn usual_user(&self) -> &'static str;

    /// What it needs when it has just started, in bytes.
    fn estimated_bytes(&self) -> u64;

    /// What an earlier run of it may have left in `data_dir`.
    fn orphans(&self, data_dir: &DataDir) -> Orphans;

    /// Finds its binaries, lays out its data, writes its settings: all but the start. Nothing works
    /// in `data_dir` while this runs.
    fn prepare(
        &self,
        data_dir: Arc<DataDir>,
        config: PrivateServerConfig,
    ) -> BoxFuture<'static, Result<Prepared, PrivateServerError>>;
}

/// A server that is ready to be started.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) process: ProcessSpec,
    pub(crate) socket: Socket,
}

/// A server that is started when it is needed. Clones are cheap and equal.
#[derive(Clone)]
pub struct PrivateServer {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    server: Arc<dyn Server>,
    config: PrivateServerConfig,
    supervisor: SupervisorHandle,
    budget: Arc<dyn Budget>,
    states: watch::Sender<ServerState>,
    /// Counts the starts on request, so that what is left of an old one does not touch a new one.
    tenures: AtomicU64,
    /// Failures in a row of starts on request.
    failures: AtomicU32,
}

impl PrivateServer {
    /// One with its data where `config` says, that runs under `supervisor` within `budget`. Nothing
    /// is started or written yet.
    pub(crate) fn new(
        server: impl Server,
        config: PrivateServerConfig,
        supervisor: SupervisorHandle,
        budget: Arc<dyn Budget>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                server: Arc::new(server),
                config,
                supervisor,
                budget,
                states: watch::Sender::new(ServerState::Idle),
                tenures: AtomicU64::new(0),
                failures: AtomicU32::new(0),
            }),
        }
    }

    /// Where it stands, now and from now on.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.shared.states.subscribe()
    }

    /// Where it listens, once it is ready; starts it if need be. Any number of callers wait for one
    /// start, and one that goes away ends nothing. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`PrivateServerError`]. After a failed start the error stands for a pause that grows with
    /// each failure; the first call after it tries again.
    pub async fn ensure_running(&self) -> Result<Socket, PrivateServerError> {
        let mut states = self.shared.states.subscribe();
        if self.shared.claim_start() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(shared.start());
        }
        let settled = states.wait_for(|state| !state.is_on_its_way()).await;
        let name = self.shared.server.name();
        let unavailable = |why: &str| PrivateServerError::Unavailable {
            what: name,
            why: why.to_owned(),
        };
        match settled.as_deref() {
            Ok(ServerState::Running { socket, .. }) => Ok(socket.clone()),
            Ok(ServerState::Failed { error, .. }) => Err(error.clone()),
            Ok(_) => Err(unavailable("it was stopped meanwhile")),
            Err(_) => Err(unavailable("it is gone")),
        }
    }
}

impl Locate for PrivateServer {
    fn locate(&self) -> BoxFuture<'static, Result<String, ConnectError>> {
        let server = self.clone();
        async move { Ok(server.ensure_running().await?.url().to_owned()) }.boxed()
    }
}

impl fmt::Debug for PrivateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.states.borrow().label();
        write!(f, "PrivateServer({}, {state})", self.shared.server.name())
    }
}

impl Shared {
    /// Whether the caller is the one who has to start it.
    fn claim_start(&self) -> bool {
        self.states.send_if_modified(|state| {
            let is_due = match state {
                ServerState::Idle => true,
                ServerState::Failed { retry_at, .. } => {
                    retry_at.is_some_and(|at| at <= Instant::now())
                }
                _ => false,
            };
            if is_due {
                *state = ServerState::Starting;
            }
            is_due
        })
    }

    async fn start(self: Arc<Self>) {
        let number = self.tenures.fetch_add(1, Relaxed) + 1;
        // Also when this task is dropped half-way: nobody waits for a start that nobody makes.
        let generation = ServerGeneration {
            shared: Arc::clone(&self),
            number,
            _reservation: None,
        };
        self.try_start(generation).await;
    }

    async fn try_start(self: &Arc<Self>, mut generation: ServerGeneration) {
        let (what, number) = (self.server.name(), generation.number);
        let claim = ReservationRequest {
            name: what.to_owned(),
            bytes: self.server.estimated_bytes(),
            use_headroom: true,
        };
        let reservation = match self.budget.reserve(claim).await {
            Ok(reservation) => reservation,
            Err(source) => return self.fail(number, PrivateServerError::Memory { what, source }),
        };
        let entry = Arc::clone(reservation.entry());
        generation._reservation = Some(reservation);
        // Kept until the outcome is told, which is more than that nobody keeps the server.
        let generation = Arc::new(generation);
        let child = self.child(Arc::clone(&generation), entry);
        match self.supervisor.start_child(child).await {
            Ok(_) => {}
            Err(StartChildError::Failed(exit)) => self.fail(number, self.why(&exit)),
            Err(error) => {
                let why = error.to_string();
                self.fail(number, PrivateServerError::Unavailable { what, why });
            }
        }
    }

    /// The supervisor of the server's process. It keeps `generation` as long as it is kept itself.
    fn child(
        self: &Arc<Self>,
        generation: Arc<ServerGeneration>,
        entry: Arc<dyn ReservationEntry>,
    ) -> ChildSpec {
        let shared = Arc::clone(self);
        let owner = ChildSpec::actor(&Handle::new("process", 1), move |incarnation| {
            let number = generation.number;
            ProcessOwner::new(incarnation, Arc::clone(&shared), Arc::clone(&entry), number)
        });
        let owner = owner
            .start_deadline(self.config.start_timeout.saturating_mul(2))
            .shutdown_deadline(STOP_WITHIN + Duration::from_secs(2));
        let tree = SupervisorSpec::new(CHILD)
            .intensity(RESTARTS_MAX, RESTARTS_PERIOD)
            .child(owner);
        ChildSpec::supervisor(tree).restart(Restart::Temporary)
    }

    fn why(&self, exit: &Exit) -> PrivateServerError {
        let known = exit.find::<PrivateServerError>().cloned();
        known.unwrap_or_else(|| PrivateServerError::Start {
            what: self.server.name(),
            why: exit.root().to_string(),
            lines: Vec::new(),
        })
    }

    /// Says where start `number` stands, unless a later one has begun.
    pub(crate) fn tell(&self, number: u64, state: ServerState) {
        if self.tenures.load(Relaxed) == number {
            self.states.send_replace(state);
        }
    }

    /// It ended by itself after this time: long enough, and what was before is forgotten.
    pub(crate) fn ran_for(&self, uptime: Duration) {
        if Backoff::DEFAULT.is_stable(uptime) {
            self.failures.store(0, Relaxed);
        }
    }

    /// Start `number` has failed for good: it is tried again when somebody asks after a pause.
    fn fail(&self, number: u64, error: PrivateServerError) {
        let is_told = matches!(
            &*self.states.borrow(),
            ServerState::Failed { retry_at, .. } if retry_at.is_some()
        );
        if is_told || self.tenures.load(Relaxed) != number {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let pause = Backoff::DEFAULT.delay(failures);
        let server = self.server.name();
        tracing::warn!(server, %error, "a private server does not run");
        let retry_at = Some(Instant::now() + pause);
        self.tell(number, ServerState::Failed { error, retry_at });
    }
}

/// One start on request and all restarts that follow from it: lives as long as a supervisor keeps
/// the server, and the memory is reserved as long.
struct ServerGeneration {
    shared: Arc<Shared>,
    number: u64,
    _reservation: Option<Reservation>,
}

impl Drop for ServerGeneration {
    fn drop(&mut self) {
        let state = self.shared.states.borrow().clone();
        match state {
            ServerState::Failed { error, .. } | ServerState::Restarting { error } => {
                self.shared.fail(self.number, error);
            }
            ServerState::Starting => {
                let what = self.shared.server.name();
                let why = "its start was broken off".to_owned();
                let error = PrivateServerError::Unavailable { what, why };
                self.shared.fail(self.number, error);
            }
            ServerState::Idle | ServerState::Running { .. } => {
                self.shared.tell(self.number, ServerState::Idle);
            }
        }
    }
}
