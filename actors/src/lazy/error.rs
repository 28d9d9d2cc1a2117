//! Why the loader refused a request, with what a caller needs to act on it.

use std::sync::Arc;
use std::time::Duration;

use crate::kernel::LoadError;
use crate::kernel::pressure::Level;
use utoipa::ToSchema;

/// A request names a resource that the catalogue does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no resource named {0:?}")]
pub struct UnknownResource(
    /// The name.
    pub String,
);

/// A request names a kind of which there is no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no resource is of the kind {kind:?}; there are: {}", .kinds.join(", "))]
pub struct UnknownKind {
    /// The kind.
    pub kind: String,
    /// The kinds of all resources.
    pub kinds: Vec<&'static str>,
}

/// Why nothing is unloaded on request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClearError {
    /// A resource that is named does not exist.
    #[error(transparent)]
    UnknownResource(#[from] UnknownResource),
    /// No resource is of the kind that is named.
    #[error(transparent)]
    UnknownKind(#[from] UnknownKind),
}

/// The memory that a load lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct Shortage {
    /// Bytes that the load needs.
    #[serde(rename = "need_bytes")]
    pub need: u64,
    /// Bytes that are free for loads. 0 when the load was refused because of [`Level::Exhausted`].
    #[serde(rename = "free_bytes")]
    pub free: u64,
    /// Bytes of loaded resources that are idle and not pinned, and so can be evicted.
    #[serde(rename = "evictable_bytes")]
    pub evictable: u64,
    /// The whole budget, in bytes. `null` when the load was refused because of the level alone.
    #[serde(rename = "budget_bytes")]
    pub budget: Option<u64>,
    /// The level at the refusal.
    pub level: Level,
}

/// By how much a resource is too large for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct Excess {
    /// Bytes that the load needs at least, with its dependencies.
    #[serde(rename = "need_bytes")]
    pub need: u64,
    /// Bytes that all loads together can have within the present budget.
    #[serde(rename = "most_bytes")]
    pub most: u64,
}

/// Why there is no lease.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// The catalogue has no such resource.
    #[error("there is no resource named {0}")]
    NotFound(String),
    /// Its load failed, now or within the backoff.
    #[error("{error}")]
    Failed {
        /// Why it failed.
        error: LoadError,
        /// When a caller can cause the next try.
        retry_in: Duration,
    },
    /// Its memory cannot be reserved now, and evictions do not help.
    #[error("{} bytes are needed, {} are free and {} could be freed", .0.need, .0.free, .0.evictable)]
    Short(Shortage),
    /// It does not fit even with everything else unloaded. Only a larger budget or a smaller resource
    /// changes that.
    #[error("{} bytes are needed, and there can never be more than {}", .0.need, .0.most)]
    NeverFits(Excess),
    /// A dependency could not be loaded.
    #[error("{dependency}, which it depends on: {error}")]
    DependencyFailed {
        /// The dependency's name.
        dependency: String,
        /// Why it could not be loaded.
        error: Arc<AcquireError>,
    },
    /// The memory budget did not reply. This says nothing about the resource.
    #[error("the memory budget does not answer")]
    BudgetUnavailable,
    /// The loader is stopping.
    #[error("the loader is stopping")]
    Stopping,
}

impl AcquireError {
    /// The error itself, or the error of the dependency that failed first.
    pub fn root(&self) -> &Self {
        let mut error = self;
        while let Self::DependencyFailed { error: cause, .. } = error {
            error = cause;
        }
        error
    }
}
