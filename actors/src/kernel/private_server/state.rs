//! The states of a private server.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{PrivateServerError, Socket};

/// The state of a private server.
#[derive(Debug, Clone)]
pub enum ServerState {
    /// No caller has needed it yet, or it was stopped.
    Idle,
    /// It is being started.
    Starting,
    /// It is ready.
    Running {
        /// The server's process.
        pid: i32,
        /// When it became ready.
        since: Instant,
        /// Where it listens.
        socket: Socket,
    },
    /// Its process ended unexpectedly, and the supervisor restarts it.
    Restarting {
        /// How the process ended.
        error: PrivateServerError,
    },
    /// It does not run.
    Failed {
        /// Why.
        error: PrivateServerError,
        /// When a caller may start it again. `None` while its supervisor still restarts it.
        retry_at: Option<Instant>,
    },
}

impl ServerState {
    /// The name of the state in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Failed { .. } => "failed",
        }
    }

    /// Why it does not run, if it failed.
    pub fn error(&self) -> Option<&PrivateServerError> {
        match self {
            Self::Restarting { error } | Self::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The JSON of a state.
#[derive(Serialize, ToSchema)]
#[schema(as = PrivateServerState)]
struct Shown {
    /// `idle`, `starting`, `running`, `restarting` or `failed`.
    state: &'static str,
    /// The server's process, while it is ready.
    pid: Option<i32>,
    /// How long it has been ready.
    running_for_seconds: Option<f64>,
    /// Why it does not run, if it failed.
    error: Option<String>,
}

impl Serialize for ServerState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (pid, running_for_seconds) = match self {
            Self::Running { pid, since, .. } => (Some(*pid), Some(since.elapsed().as_secs_f64())),
            _ => (None, None),
        };
        let shown = Shown {
            state: self.label(),
            pid,
            running_for_seconds,
            error: self.error().map(ToString::to_string),
        };
        shown.serialize(serializer)
    }
}

impl PartialSchema for ServerState {
    fn schema() -> RefOr<Schema> {
        Shown::schema()
    }
}

impl ToSchema for ServerState {
    fn name() -> Cow<'static, str> {
        Shown::name()
    }
}
