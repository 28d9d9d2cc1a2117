//! The loader's messages and their replies.

use std::time::Duration;

use super::catalogue::CatalogueError;
use super::clearing::ClearReport;
use super::error::{AcquireError, ClearError, UnknownResource};
use super::lease::Lease;
use super::status::{LoaderStatus, ResourceStatus};
use crate::kernel::{Message, Resource};

/// Gives a lease on a resource, which is loaded if needed. A caller that gives up does not end the
/// load.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// The resource's name.
    pub name: String,
}

impl Message for Acquire {
    type Reply = Result<Lease, AcquireError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Loads a resource without using it. Replies when it is loaded.
#[derive(Debug, Clone)]
pub struct Preload {
    /// The resource's name.
    pub name: String,
}

impl Message for Preload {
    type Reply = Result<(), AcquireError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Like [`Preload`], but the load and those of its dependencies evict nothing and leave the headroom
/// alone: where free memory is not enough, the reply is [`AcquireError::Short`] at once. If other
/// callers want the same load, it may evict for them.
#[derive(Debug, Clone)]
pub struct PreloadWithoutEviction {
    /// The resource's name.
    pub name: String,
}

impl Message for PreloadWithoutEviction {
    type Reply = Result<(), AcquireError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        // It is asked for to learn whether the resource fits.
        matches!(reply, Err(error) if !matches!(error.root(), AcquireError::Short(_)))
    }
}

/// Drains a resource and its dependents. Replies when the resource is unloaded, at once if there is no
/// such resource. Callers that ask for it meanwhile wait, and cause its next load. Also forgets a failed
/// load, so that the next caller causes a new try.
#[derive(Debug, Clone)]
pub struct Unload {
    /// The resource's name.
    pub name: String,
}

impl Message for Unload {
    type Reply = ();
}

/// Loads what is registered under a name now, also when an earlier resource of this name is loaded: that one serves until
/// the new one is loaded, and is then unloaded after its leases. If the new one cannot be loaded, or there is no memory for
/// both, the reply is the error and the earlier one stays. Also forgets a failed load. Replies at once if what is registered
/// is loaded.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The resource's name.
    pub name: String,
}

impl Message for Reload {
    type Reply = Result<(), AcquireError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Adds a resource to the catalogue, or replaces the one with its name. A loaded resource is
/// replaced at its next load, or by a [`Reload`].
#[derive(Clone)]
pub struct Register {
    /// The resource.
    pub resource: Resource,
}

impl Message for Register {
    type Reply = Result<(), CatalogueError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Removes a resource from the catalogue and drains it. Replies when it is unloaded. Its waiters and
/// later callers get `NotFound`.
#[derive(Debug, Clone)]
pub struct Deregister {
    /// The resource's name.
    pub name: String,
}

impl Message for Deregister {
    type Reply = Result<(), CatalogueError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Changes the deadline of loads, from the next load on.
#[derive(Debug, Clone, Copy)]
pub struct SetLoadDeadline {
    /// The new deadline.
    pub deadline: Duration,
}

impl Message for SetLoadDeadline {
    type Reply = ();
}

/// Pins or unpins a resource, until its settings say something else about pins than they do now. Gives
/// its new status.
#[derive(Debug, Clone)]
pub struct SetPinned {
    /// The resource's name.
    pub name: String,
    /// Whether it is exempt from the TTL and from eviction.
    pub pinned: bool,
}

impl Message for SetPinned {
    type Reply = Result<ResourceStatus, UnknownResource>;
}

/// Gives the status of every resource, sorted by name.
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = Vec<ResourceStatus>;
}

/// Gives the status of the loader, with every resource.
#[derive(Debug, Clone, Default)]
pub struct ReadLoader {
    /// The resource for which the status says what its load would do.
    pub if_loaded: Option<String>,
}

impl Message for ReadLoader {
    type Reply = Result<LoaderStatus, UnknownResource>;
    const CANCELLABLE: bool = true;
}

/// Drains the chosen resources, and replies when they are unloaded, or when `wait` is over. A resource
/// must meet every condition that is given. Nothing is unloaded that was not chosen: what a loaded
/// resource needs that is not chosen, stays.
#[derive(Debug, Clone, Default)]
pub struct Clear {
    /// Only these resources. Otherwise all that are loaded, except pinned ones.
    pub names: Vec<String>,
    /// Only resources of this kind.
    pub kind: Option<String>,
    /// Only resources that are idle, and were not used for this long.
    pub idle_for: Option<Duration>,
    /// Only resources that callers have asked for exactly this often (hits and misses), so not those that
    /// others have used since the sender looked.
    pub uses: Option<u64>,
    /// Keeps pinned resources also if they are named.
    pub keep_pinned: bool,
    /// Reports what would happen, and changes nothing.
    pub dry_run: bool,
    /// How long to wait for the unloads. They go on afterwards.
    pub wait: Duration,
}

impl Message for Clear {
    type Reply = Result<ClearReport, ClearError>;
}
