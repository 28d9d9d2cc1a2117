//! Private servers: a PostgreSQL or a Redis that Headroom starts itself, from installed programs,
//! when the first caller needs it.
//!
//! This module owns what both kinds share: the data folder (`data_dir`), the unprivileged user that
//! the server runs as (`run_as`), the search for its programs (`programs`), the end of processes that
//! an earlier run left behind (`orphans`), the one start that all callers wait for
//! ([`PrivateServer::ensure_running`]), and the actor that owns the server's process (`process_owner`). A
//! [`ServerUrl`] tells a pool where its server is. A [`ServerKind`] holds what differs. The `postgres`
//! module defines one, the `redis` module one for each role.
//!
//! Access: only the server's user and root can connect. The server has no TCP listener, its socket
//! lies in a folder of mode 0700, and it asks for a password of 128 random bits that is kept in a file
//! of mode 0600. The password matters because other programs may run as the same user (`nobody`), and
//! because a socket with a long path lies in another folder. PostgreSQL's `peer` authentication is no
//! alternative: where Headroom runs as root, it is not the cluster's user.
//!
//! Failures: the supervisor restarts the server's process with backoff. When that fails too often, the
//! supervisor gives up, callers get the error at once, and the first caller after a pause starts the
//! server again.
//!
//! [`ServerKind::inspect`] says before the start whether a server could start, and changes nothing.
//!
//! The data folder stays locked while a server of this process uses it. Any other process that works
//! in it is therefore an orphan, and is ended before the server starts. So two servers never write to
//! the same files.

mod config;
mod data_dir;
mod error;
mod inspection;
mod kind;
mod orphans;
mod process_owner;
mod programs;
mod run_as;
mod server_url;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use config::percent_encoded;
pub use config::{PrivateServerConfig, Socket};
pub use data_dir::create_passable;
pub(crate) use data_dir::{DataDir, new_password};
pub use error::PrivateServerError;
pub use inspection::Inspection;
pub use kind::ServerKind;
pub(crate) use kind::{PreparedServer, Programs};
#[cfg(test)]
pub(crate) use orphans::Orphans;
pub use programs::SearchPath;
pub use server_url::ServerUrl;
pub use state::ServerState;

use super::backoff::Backoff;
use super::budget::{Budget, PRIVATE_SERVER, Reservation, ReservationRequest};
use super::child::{ChildSpec, Restart};
use super::exit::Exit;
use super::handle::Handle;
use super::supervisor_spec::{StartChildError, SupervisorHandle, SupervisorSpec};
use process_owner::ProcessOwner;

/// The supervisor gives up after this many restarts within [`RESTARTS_PERIOD`].
const RESTARTS_MAX: u32 = 6;

const RESTARTS_PERIOD: Duration = Duration::from_secs(60);

/// How long a server may take from the start of its process until it is ready, including the recovery
/// after a crash.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an orderly stop may take. The server writes memory to the disk meanwhile.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A private server, which is started when it is first needed. Clones refer to the same server.
#[derive(Clone)]
pub struct PrivateServer {
    shared: Arc<Shared>,
}

struct Shared {
    kind: &'static ServerKind,
    config: PrivateServerConfig,
    supervisor: SupervisorHandle,
    budget: Arc<dyn Budget>,
    state: watch::Sender<ServerState>,
    /// The number of the current generation. An older one must not change the state.
    generation: AtomicU64,
    /// Generations that failed in a row.
    failures: AtomicU32,
}

impl PrivateServer {
    /// A server of this kind, to run under `supervisor` within `budget`. Starts and writes nothing.
    pub fn new(
        kind: &'static ServerKind,
        config: PrivateServerConfig,
        supervisor: SupervisorHandle,
        budget: Arc<dyn Budget>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                kind,
                config,
                supervisor,
                budget,
                state: watch::Sender::new(ServerState::Idle),
                generation: AtomicU64::new(0),
                failures: AtomicU32::new(0),
            }),
        }
    }

    /// The server's state, and its changes.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.shared.state.subscribe()
    }

    /// Waits until the server is ready, and starts it if necessary. Returns its socket. All callers
    /// wait for one start, which goes on when a caller gives up. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// See [`PrivateServerError`]. After a failed start all calls return its error, for a pause that
    /// grows with each failure. The first call after the pause starts the server again.
    pub async fn ensure_running(&self) -> Result<Socket, PrivateServerError> {
        let mut states = self.shared.state.subscribe();
        if self.shared.begin_start_if_due() {
            tokio::spawn(Arc::clone(&self.shared).start());
        }
        let is_starting = |state: &ServerState| {
            matches!(
                state,
                ServerState::Starting | ServerState::Restarting { .. }
            )
        };
        let state = states.wait_for(|state| !is_starting(state)).await;
        match state.as_deref() {
            Ok(ServerState::Running { socket, .. }) => Ok(socket.clone()),
            Ok(ServerState::Failed { error, .. }) => Err(error.clone()),
            _ => Err(self.shared.unavailable("it was stopped during its start")),
        }
    }
}

impl Shared {
    /// Changes the state to `Starting` if a start is due. Returns whether the caller must start the
    /// server.
    fn begin_start_if_due(&self) -> bool {
        self.state.send_if_modified(|state| {
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
        let number = self.generation.fetch_add(1, Relaxed) + 1;
        // If this task is aborted, the drop of the generation ends the state `Starting`.
        let mut generation = ServerGeneration {
            shared: Arc::clone(&self),
            number,
            reservation: None,
        };
        let server = self.kind.name;
        let request = ReservationRequest {
            name: server.to_owned(),
            kind: PRIVATE_SERVER,
            bytes: self.kind.estimated_bytes,
            use_headroom: true,
        };
        match self.budget.reserve(request).await {
            Ok(reservation) => generation.reservation = Some(reservation),
            Err(source) => {
                return self.fail(number, PrivateServerError::Memory { server, source });
            }
        }
        // This task keeps the generation until it knows the result of the start.
        let generation = Arc::new(generation);
        let child = child(Arc::clone(&generation));
        match self.supervisor.start_child(child).await {
            Ok(_) => {}
            Err(StartChildError::Failed(exit)) => self.fail(number, self.start_error(&exit)),
            Err(error) => self.fail(number, self.unavailable(error.to_string())),
        }
    }

    fn start_error(&self, exit: &Exit) -> PrivateServerError {
        let error = exit.find::<PrivateServerError>().cloned();
        error.unwrap_or_else(|| PrivateServerError::Start {
            server: self.kind.name,
            reason: exit.root().to_string(),
            lines: Vec::new(),
        })
    }

    fn unavailable(&self, reason: impl Into<String>) -> PrivateServerError {
        PrivateServerError::Unavailable {
            server: self.kind.name,
            reason: reason.into(),
        }
    }

    /// Sets the state on behalf of the generation `number`, unless a later one has begun.
    fn set_state(&self, number: u64, state: ServerState) {
        if self.generation.load(Relaxed) == number {
            self.state.send_replace(state);
        }
    }

    /// The generation `number` has failed. The next caller after a pause starts another one.
    fn fail(&self, number: u64, error: PrivateServerError) {
        let is_recorded = matches!(
            &*self.state.borrow(),
            ServerState::Failed { retry_at, .. } if retry_at.is_some()
        );
        if is_recorded || self.generation.load(Relaxed) != number {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let pause = Backoff::DEFAULT.delay(failures);
        let server = self.kind.name;
        tracing::warn!(server, %error, "a private server does not run");
        let retry_at = Some(Instant::now() + pause);
        self.set_state(number, ServerState::Failed { error, retry_at });
    }
}

/// One start of the server, with the restarts that its supervisor makes. Lives as long as the
/// supervisor keeps the server, and holds its memory reservation.
struct ServerGeneration {
    shared: Arc<Shared>,
    number: u64,
    reservation: Option<Reservation>,
}

/// The supervisor of the server's process. Keeps `generation` alive.
fn child(generation: Arc<ServerGeneration>) -> ChildSpec {
    let child = generation.shared.kind.child;
    let owner = ChildSpec::actor(&Handle::new("process", 1), move |incarnation| {
        ProcessOwner {
            incarnation,
            generation: Arc::clone(&generation),
            running: None,
        }
    });
    let owner = owner
        .start_deadline(START_TIMEOUT * 2)
        .shutdown_deadline(STOP_TIMEOUT + Duration::from_secs(2));
    let tree = SupervisorSpec::new(child)
        .intensity(RESTARTS_MAX, RESTARTS_PERIOD)
        .child(owner);
    ChildSpec::supervisor(tree).restart(Restart::Temporary)
}

impl ServerGeneration {
    fn set_state(&self, state: ServerState) {
        self.shared.set_state(self.number, state);
    }
}

impl Drop for ServerGeneration {
    fn drop(&mut self) {
        let state = self.shared.state.borrow().clone();
        let error = match state {
            ServerState::Failed { error, .. } | ServerState::Restarting { error } => error,
            ServerState::Starting => self.shared.unavailable("its start was aborted"),
            ServerState::Idle | ServerState::Running { .. } => {
                return self.set_state(ServerState::Idle);
            }
        };
        self.shared.fail(self.number, error);
    }
}
