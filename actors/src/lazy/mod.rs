//! The lazy loader: heavy things are loaded by their first user, once, and leave when they are idle
//! or when memory is short.
//!
//! Why it exists: a server that loads everything at start is slow and big, and one that loads on
//! demand without rules loads twice, unloads what is in use, and runs out of memory. The loader is
//! the one place that decides what is loaded. It knows nothing of what it loads: a room offers a
//! [`Load`](crate::kernel::Load) for each thing, and the [`Catalogue`] says what it depends on.
//!
//! What it guarantees:
//! - **Single flight**: however many callers, one load; all get its result. A caller that gives up
//!   disturbs nobody.
//! - **Order**: dependencies are loaded before, independent ones in parallel, and unloaded after
//!   what depends on them. A catalogue with a cycle cannot be built.
//! - **No memory without a reservation**, from before the load until after the unload. Room is made
//!   for one load at a time; nothing is evicted unless that makes enough room, and never more than
//!   is needed.
//! - **What can never fit is told so** at once, and nothing is loaded or evicted for it.
//! - **What is in use stays**: a [`Lease`] keeps its resource loaded, a loaded resource keeps its
//!   dependencies, and pinned ones leave only on request.
//! - **Failures are remembered** for a backoff, with their cause and the time of the next try.
//! - **Nothing outlives it**: a stop waits for leases, then unloads; after a crash the next
//!   incarnation begins when all that the former one loaded is unloaded.
//!
//! What it does not do: evict something in steady use for something else. A load that finds all
//! room in use waits for a while ([`Config::wait_for_room`]) and is then refused.
//!
//! Layout: [`Loader`] is the actor (`loader`: its state and life; `handlers`: its answers;
//! `loading`, `room`, `leaving`, `relief`: what it does, one file per part of a resource's life);
//! `slot` is one resource in its hands; `policy` decides who goes first and knows no actors.

mod catalogue;
mod config;
mod error;
mod handlers;
mod lease;
mod leaving;
mod loader;
mod loading;
mod messages;
mod metrics;
mod phase;
mod policy;
mod registrar;
mod relief;
mod room;
mod slot;
mod status;
mod teardown;
#[cfg(test)]
mod tests;

pub use catalogue::{Catalogue, CatalogueError};
pub use config::Config;
pub use error::{AcquireError, DeregisterError, Excess, Shortage, UnloadError};
pub use lease::Lease;
pub use loader::Loader;
pub use messages::{
    Acquire, Deregister, Evict, Evicted, Preload, Register, SetLoadDeadline, Status, Unload,
    Unloaded,
};
pub use phase::Phase;
pub use policy::{
    Candidate, Count, Gdsf, Lru, Policy, PolicyKind, UnknownPolicy, Usage, choose, evictable,
};
pub use status::ResourceStatus;
