//! Why a resource could not be had, said so that a caller can act on it.

use std::sync::Arc;
use std::time::Duration;

use crate::kernel::LoadError;
use crate::kernel::pressure::Level;

/// Room that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shortage {
    /// Bytes that the load needs.
    pub need: u64,
    /// Bytes that are free for loads: none at [`Level::Exhausted`], unless the budget refused.
    pub free: u64,
    /// Bytes of what is loaded, idle and not pinned: what could be evicted now.
    pub evictable: u64,
    /// The whole budget, in bytes; unknown when the level alone stood against the load.
    pub budget: Option<u64>,
    /// How short memory was.
    pub level: Level,
}

/// Room that there can never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Excess {
    /// Bytes that the load needs at least, with what it depends on.
    pub need: u64,
    /// Bytes that all loads together could ever have, by the budget of now.
    pub most: u64,
}

/// Why there is no lease.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// The catalogue has no such resource, or has it no more.
    #[error("there is nothing named {0}")]
    NotFound(String),
    /// Its load failed, now or within the backoff.
    #[error("{error}")]
    Failed {
        /// Why.
        error: LoadError,
        /// When the next caller will cause a new try.
        retry_in: Duration,
    },
    /// There is no room for it, and no room can be made.
    #[error("{} bytes are needed, {} are free and {} could be freed", .0.need, .0.free, .0.evictable)]
    Short(Shortage),
    /// It would not fit with everything else gone. Only another budget, or other files, change that.
    #[error("{} bytes are needed, and there can never be more than {}", .0.need, .0.most)]
    NeverFits(Excess),
    /// Something that it depends on could not be had.
    #[error("{dependency}, which it depends on: {error}")]
    DependencyFailed {
        /// The name of what it depends on.
        dependency: String,
        /// Why that could not be had.
        error: Arc<AcquireError>,
    },
    /// The keeper of the memory budget did not answer; nothing is known of the resource itself.
    #[error("the memory budget cannot be asked now")]
    BudgetUnavailable,
    /// The loader is being stopped.
    #[error("the loader is stopping")]
    Stopping,
}

impl AcquireError {
    /// What lies at the bottom: the error itself, or that of the dependency that failed first.
    pub fn root(&self) -> &Self {
        let mut at = self;
        while let Self::DependencyFailed { error, .. } = at {
            at = error;
        }
        at
    }

    /// When the next caller will cause a new try, where that is known.
    pub fn retry_in(&self) -> Option<Duration> {
        match self.root() {
            Self::Failed { retry_in, .. } => Some(*retry_in),
            _ => None,
        }
    }

    /// A fixed word for metrics and logs: what lies at the bottom.
    pub fn label(&self) -> &'static str {
        match self.root() {
            Self::NotFound(_) => "not_found",
            Self::Failed { .. } => "failed",
            Self::Short(_) => "short",
            Self::NeverFits(_) => "never_fits",
            Self::DependencyFailed { .. } => "dependency_failed",
            Self::BudgetUnavailable => "budget_unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a resource was not unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnloadError {
    /// The catalogue has no such resource.
    #[error("there is nothing named {0}")]
    NotFound(String),
}

/// Why a resource was not taken out of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeregisterError {
    /// The catalogue has no such resource.
    #[error("there is nothing named {0}")]
    NotFound(String),
    /// Others in the catalogue depend on it. Deregister them first.
    #[error("{name} is needed by {}", .dependents.join(", "))]
    Needed {
        /// The name.
        name: String,
        /// Who depends on it.
        dependents: Vec<String>,
    },
}
