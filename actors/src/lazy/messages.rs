//! What the loader can be asked.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::catalogue::CatalogueError;
use super::error::{AcquireError, DeregisterError, UnloadError};
use super::lease::Lease;
use super::status::ResourceStatus;
use crate::kernel::{Message, Resource};

/// Asks for a resource, loading it if need be. Whoever gives up waiting does not disturb the load.
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

/// Loads a resource, if it is not loaded, without using it. Answers when it is loaded.
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

/// Unloads a resource and what depends on it: no more leases are given out, and when those that
/// are held have ended, it goes. Whoever asks for it meanwhile waits, and loads it again. Also
/// forgets a failed load, so that the next caller causes a new try.
#[derive(Debug, Clone)]
pub struct Unload {
    /// The resource's name.
    pub name: String,
}

impl Message for Unload {
    type Reply = Result<Unloaded, UnloadError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// What an unload gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unloaded {
    /// Bytes reserved or measured before, whichever is more; 0 if it was not loaded.
    pub bytes: u64,
}

/// Unloads idle resources, those that the policy values least first, until `bytes` have come free.
#[derive(Debug, Clone, Copy)]
pub struct Evict {
    /// Bytes wanted; `u64::MAX` for all that is idle.
    pub bytes: u64,
}

impl Message for Evict {
    type Reply = Evicted;
}

/// What went on request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// The names.
    pub names: Vec<String>,
    /// Bytes given back, all together.
    pub bytes: u64,
}

/// Adds a resource to the catalogue, or replaces the one of its name: at once if that is not
/// loaded, else from its next load on.
#[derive(Clone)]
pub struct Register {
    /// The resource.
    pub resource: Resource,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Register({})", self.resource.name)
    }
}

impl Message for Register {
    type Reply = Result<(), CatalogueError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Takes a resource out of the catalogue and unloads it. Whoever waits for it, or asks for it from
/// now on, is told that there is none. Answers when it is unloaded.
#[derive(Debug, Clone)]
pub struct Deregister {
    /// The resource's name.
    pub name: String,
}

impl Message for Deregister {
    type Reply = Result<Unloaded, DeregisterError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Changes how long loads may take, from the next load on.
#[derive(Debug, Clone, Copy)]
pub struct SetLoadDeadline {
    /// The new deadline.
    pub deadline: Duration,
}

impl Message for SetLoadDeadline {
    type Reply = ();
}

/// Asks where every resource stands, by name.
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = Vec<ResourceStatus>;
}
