//! Where a private server stands.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::{PrivateServerError, Socket};

/// Where a private server stands.
#[derive(Debug, Clone)]
pub enum ServerState {
    /// Nobody has needed it yet, or it was stopped.
    Idle,
    /// It is on its way for the first time.
    Starting,
    /// It is ready.
    Running {
        /// Its process.
        pid: i32,
        /// Since when.
        since: Instant,
        /// Where it listens.
        socket: Socket,
    },
    /// It ended by itself, and is on its way again.
    Restarting {
        /// How it ended.
        error: PrivateServerError,
    },
    /// It does not run.
    Failed {
        /// Why.
        error: PrivateServerError,
        /// From when on a caller starts it again; `None` as long as its supervisor tries by itself.
        retry_at: Option<Instant>,
    },
}

impl ServerState {
    /// A fixed word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Failed { .. } => "failed",
        }
    }

    pub(super) fn is_on_its_way(&self) -> bool {
        matches!(self, Self::Starting | Self::Restarting { .. })
    }

    /// Why it does not run, if it should.
    pub fn error(&self) -> Option<&PrivateServerError> {
        match self {
            Self::Restarting { error } | Self::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Serialize for ServerState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (pid, running_for) = match self {
            Self::Running { pid, since, .. } => (Some(*pid), Some(since.elapsed().as_secs_f64())),
            _ => (None, None),
        };
        let mut fields = serializer.serialize_struct("ServerState", 4)?;
        fields.serialize_field("state", self.label())?;
        fields.serialize_field("pid", &pid)?;
        fields.serialize_field("running_for_seconds", &running_for)?;
        fields.serialize_field("error", &self.error().map(ToString::to_string))?;
        fields.end()
    }
}
