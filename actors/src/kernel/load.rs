//! The traits between the lazy loader and the modules whose resources it loads.
//!
//! A module describes each of its resources with a [`Resource`]. The loader decides when to call
//! the resource's [`Load`]. Neither knows the other's types.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::budget::ReservationEntry;

/// Loads and unloads one resource. The loader never calls `load` twice without `unload` in between.
pub trait Load: Any + Send + Sync {
    /// Loads the resource. Dropping the returned future abandons the load; a call of
    /// [`Load::unload`] then removes all that the load has left.
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>>;

    /// Unloads the resource. Resolves when its memory is free. The loader also calls this after a
    /// failed or an abandoned load.
    fn unload(&self) -> BoxFuture<'static, ()>;

    /// The loaded resource gets no new users, and is unloaded when it has none. What uses it without need should end. Waits for
    /// nothing.
    fn on_drain(&self) {}

    /// Kills the resource's processes at once, because memory is exhausted. Waits for nothing. The
    /// loader calls [`Load::unload`] afterwards.
    fn kill(&self) {}
}

/// Describes a resource to the lazy loader.
#[derive(Clone)]
pub struct Resource {
    /// Its name in the catalogue.
    pub name: String,
    /// Its kind, in one word, for metrics.
    pub kind: &'static str,
    /// The names of the resources that must be loaded before it.
    pub depends_on: Vec<String>,
    /// How long it stays loaded after its last use; `None` for ever.
    pub ttl: Option<Duration>,
    /// Whether it is exempt from the TTL and from eviction.
    pub pinned: bool,
    /// What to reserve for its first load, in bytes.
    pub estimated_bytes: u64,
    /// Loads and unloads it.
    pub load: Arc<dyn Load>,
}

impl Resource {
    /// Whether it depends on `name` directly.
    pub fn needs(&self, name: &str) -> bool {
        self.depends_on.iter().any(|dependency| dependency == name)
    }
}

/// Changes the lazy loader's catalogue while the server runs.
pub trait Registrar: Send + Sync + 'static {
    /// Adds `resource`. Where one with its name exists, `resource` replaces it from its next load on,
    /// or when it is reloaded.
    fn register(&self, resource: Resource) -> BoxFuture<'static, Result<(), LoadError>>;

    /// Removes the resource `name`. Resolves when it is unloaded.
    fn deregister(&self, name: String) -> BoxFuture<'static, Result<(), LoadError>>;
}

/// What the loader gives to one load.
#[derive(Clone)]
pub struct LoadContext {
    /// The load's reservation. The load attaches its processes to it.
    pub entry: Arc<dyn ReservationEntry>,
    /// How long the load may take.
    pub deadline: Duration,
    /// Where the resource's owner reports how much memory the resource needs.
    pub feedback: MemoryFeedback,
}

/// What a resource's owner reports to the loader about the resource's memory. Clones share the
/// report.
#[derive(Debug, Clone, Default)]
pub struct MemoryFeedback(Arc<Report>);

#[derive(Debug, Default)]
struct Report {
    required_bytes: AtomicU64,
    suspect: AtomicBool,
}

impl MemoryFeedback {
    /// Raises what the next load reserves to at least `bytes`, because the resource needs more than
    /// its load has shown.
    pub fn require(&self, bytes: u64) {
        self.0.required_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// The highest value given to [`Self::require`]; 0 without one.
    pub fn required_bytes(&self) -> u64 {
        self.0.required_bytes.load(Ordering::Relaxed)
    }

    /// Sets whether the loaded resource is a suspect: it leaks or is overgrown. A suspect is
    /// evicted before all others.
    pub fn set_suspect(&self, suspect: bool) {
        self.0.suspect.store(suspect, Ordering::Relaxed);
    }

    /// The last value given to [`Self::set_suspect`].
    pub fn is_suspect(&self) -> bool {
        self.0.suspect.load(Ordering::Relaxed)
    }
}

/// The result of a load.
pub struct Loaded {
    /// The bytes that the resource's processes use, measured after the load; 0 if nothing was measured.
    pub bytes: u64,
    /// Resolves with the cause when the resource has ended for good, because its supervisor gave
    /// up. [`Load::unload`] does not resolve it.
    pub died: BoxFuture<'static, LoadError>,
}

/// What kind of failure ended a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadErrorKind {
    /// The resource itself is broken: a damaged file, wrong settings. Another try helps only after
    /// a repair.
    Invalid,
    /// The load failed this time. Another try may succeed.
    Unavailable,
    /// The load took longer than its deadline.
    Deadline,
}

/// Why a load failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// What kind of failure it is.
    pub kind: LoadErrorKind,
    /// What happened. Clients of the API see this text, so it holds no secrets and no paths of the
    /// server.
    pub message: Arc<str>,
}

impl LoadError {
    /// Makes an error of `kind` with `message`.
    pub fn new(kind: LoadErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
