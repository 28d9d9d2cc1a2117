//! The lazy loader: it loads a resource for its first user, once, and unloads it when it is idle or
//! when memory is short.
//!
//! Why it exists: a server that loads everything at start is slow and large. A server that loads on
//! demand without rules loads twice, unloads what is in use, and runs out of memory. The loader is
//! the one place that decides what is loaded. It does not know what it loads: a module describes
//! each of its resources with a [`Resource`](crate::kernel::Resource).
//!
//! Guarantees:
//! - **Single flight**: all callers of a resource share one load and get its result. A caller that
//!   gives up does not affect the others.
//! - **Order**: dependencies are loaded before their dependents and unloaded after them. Independent
//!   dependencies are loaded in parallel. The [`Catalogue`] refuses cycles.
//! - **No memory without a reservation**, from before the load until after the unload. One load at a
//!   time asks the budget and evicts. It evicts only if the chosen resources free enough together, and
//!   only the resources that are needed for that.
//! - **A load evicts only for a caller that wants that** ([`PreloadWithoutEviction`]).
//! - **A resource that can never fit is refused** at once. Nothing is loaded or evicted for it.
//! - **A resource in use stays**: a [`Lease`] keeps its resource loaded, a loaded resource keeps its
//!   dependencies, and a pinned resource is unloaded only on request and at a stop.
//! - **A reload takes nothing away**: a [`Reload`] loads a changed resource beside the loaded one, and switches when it
//!   is ready. If it cannot be loaded, the loaded one stays.
//! - **Failures are remembered** for a backoff, with their cause and the time of the next try.
//! - **Nothing outlives the loader**: a stop waits for leases, then unloads. After a crash the next
//!   incarnation starts when all that the crashed one loaded is unloaded.
//!
//! Not guaranteed: the loader does not evict a resource in steady use for another one. A load for
//! which all memory is in use waits for a while ([`Config::wait_for_room`]) and is then refused.
//!
//! Layout: [`Loader`] is the actor. `loader` has its state, its start and stop, and the acquiring of
//! leases; `handlers` handles its `messages`, and `registrar` is the kernel's way to change the
//! `catalogue`. `loading`, `reserving` (with the `reservation_queue`), `eviction`, `unloading`, `expiry`,
//! `pressure`, `clearing`, `pinning` and `replacing` each have one part of its work; `reporting` and `dry_run` tell operators about
//! it; `after_crash` unloads what a crashed loader has left. `slot` is the state of one resource, with its
//! `load_times`; `hit_rate` counts for all; `lease` counts users, `resource_calls` calls a resource's code.
//! `policy` orders resources for eviction and does not know the actor.

mod after_crash;
mod catalogue;
mod clearing;
mod config;
mod dry_run;
mod error;
mod eviction;
mod expiry;
mod handlers;
mod hit_rate;
mod lease;
mod load_times;
mod loader;
mod loading;
mod messages;
mod metrics;
mod phase;
mod pinning;
mod policy;
mod pressure;
mod recent;
mod registrar;
mod replacing;
mod reporting;
mod reservation_queue;
mod reserving;
mod resource_calls;
mod resource_names;
mod slot;
mod status;
mod summary;
#[cfg(test)]
mod tests;
mod unloading;

pub use catalogue::{Catalogue, CatalogueError};
pub use clearing::{ClearOutcome, ClearReport, Cleared, KeptReason};
pub use config::Config;
pub use dry_run::{IfLoaded, LoadOutcome, NamedBytes, Refusal};
pub use error::{AcquireError, ClearError, Excess, Shortage, UnknownKind, UnknownResource};

pub use hit_rate::HitRates;
pub use lease::Lease;
pub use load_times::LoadTimeQuantiles;
pub use loader::Loader;
pub use messages::{
    Acquire, Clear, Deregister, Preload, PreloadWithoutEviction, ReadLoader, Register, Reload,
    SetLoadDeadline, SetPinned, Status, Unload,
};
pub use metrics::METRICS;
pub use phase::Phase;
pub use policy::{Candidate, Policy, PolicyKind, UseRecord, choose};
pub use recent::{ReadRecent, ResourceEvent, ResourceEventKind};
pub use resource_names::ResourceNames;
pub use status::{Counts, EvictionReason, LoaderStatus, NextEviction, ResourceStatus};
pub use summary::{Figures, Summarise, Summary};
