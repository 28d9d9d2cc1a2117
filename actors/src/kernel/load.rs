//! What a room offers to the lazy loader: a way to load one thing, and to unload it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::budget::Entry;

/// Loads and unloads one thing. The loader never calls `load` twice without `unload` between.
pub trait Load: Send + Sync + 'static {
    /// Loads it. `ticket` says within what bounds. If the returned future is dropped, the load is
    /// abandoned and must leave nothing behind once [`Load::unload`] has been called.
    fn load(&self, ticket: Ticket) -> BoxFuture<'static, Result<Loaded, LoadError>>;

    /// Unloads it and returns when its memory is back. Also called after a failed or abandoned
    /// load, and must then do nothing, or clean up.
    fn unload(&self) -> BoxFuture<'static, ()>;

    /// Ends its processes at once, whatever they are doing, because memory is exhausted: nobody is
    /// asked first, and nothing is waited for. [`Load::unload`] follows.
    fn kill(&self) {}
}

/// A thing that can be loaded, as a room offers it to the lazy loader.
#[derive(Clone)]
pub struct Loadable {
    /// Its name in the catalogue.
    pub name: String,
    /// What sort of thing it is, in one word, for metrics.
    pub kind: &'static str,
    /// What must be loaded before it, by name.
    pub depends_on: Vec<String>,
    /// How long it stays loaded after its last use; `None` for ever.
    pub ttl: Option<Duration>,
    /// Never evicted, never idle.
    pub pinned: bool,
    /// What to reserve for its first load, in bytes.
    pub estimated_bytes: u64,
    /// How to load it.
    pub load: Arc<dyn Load>,
}

/// Takes loadable things into the lazy loader's catalogue while everything runs.
pub trait Registrar: Send + Sync + 'static {
    /// Adds `offer`, or replaces what has its name, from its next load on.
    fn register(&self, offer: Loadable) -> BoxFuture<'static, Result<(), LoadError>>;

    /// Takes what is called `name` out of the catalogue, and resolves when it is unloaded.
    fn unregister(&self, name: String) -> BoxFuture<'static, Result<(), LoadError>>;
}

/// The bounds of one load.
#[derive(Clone)]
pub struct Ticket {
    /// Where the load's processes are to be attached, so that their memory is counted.
    pub entry: Arc<dyn Entry>,
    /// How long the load may take.
    pub deadline: Duration,
    /// Where whoever runs it says what it turned out to need.
    pub estimate: Estimate,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What whoever runs a thing has learned of its memory. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Estimate(Arc<Learned>);

#[derive(Debug, Default)]
struct Learned {
    bytes: AtomicU64,
    suspect: AtomicBool,
}

impl Estimate {
    /// Raises what the next load must reserve at least to `bytes`, where it is lower: the thing was
    /// seen to need more than was measured at its load.
    pub fn raise(&self, bytes: u64) {
        self.0.bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// What it was raised to; 0 when nobody did.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Says whether what runs now takes ever more memory, or far more than it should: then it is
    /// the first to go when memory is short.
    pub fn set_suspect(&self, suspect: bool) {
        self.0.suspect.store(suspect, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn is_suspect(&self) -> bool {
        self.0.suspect.load(Ordering::Relaxed)
    }
}

/// A thing that has just been loaded.
pub struct Loaded {
    /// Its working set in bytes, as measured after the load; the next estimate.
    pub bytes: u64,
    /// Resolves when it has died for good (its supervisor gave up), with the cause. Never resolves
    /// because of an `unload`.
    pub died: BoxFuture<'static, LoadError>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Whose fault a failed load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadFault {
    /// The thing itself cannot be loaded: a broken file, wrong settings. Trying again helps only
    /// after somebody has mended it.
    Invalid,
    /// It did not work this time.
    Unavailable,
    /// It took longer than it may.
    Deadline,
}

/// Why a load failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// Whose fault it is.
    pub fault: LoadFault,
    /// What happened, fit to be shown to a caller of the API: no secrets, no paths of ours.
    pub message: Arc<str>,
}

impl LoadError {
    /// A failed load.
    pub fn new(fault: LoadFault, message: impl Into<Arc<str>>) -> Self {
        Self {
            fault,
            message: message.into(),
        }
    }
}
