//! The actor kernel: everything that the rooms share and that knows nothing of what they own.
//!
//! Why it exists: actix gives us actors, mailboxes and addresses, but no supervision that survives
//! a panic, no bound on waiting senders, and no way to tell a dead actor from a lost reply. The
//! kernel adds those with the meaning that Erlang/OTP gave them.
//!
//! What it guarantees:
//! - **Every end has a reason** ([`Exit`]), and a supervisor acts on it ([`SupervisorSpec`]).
//! - **Every call is admitted, refused, answered or reported lost** ([`Handle::ask`]); the number
//!   in flight is bounded, and a permit lives as long as the work.
//! - **Order**: children start in order, each after the one before is ready; they stop in reverse.
//! - **Nobody holds an address**: a handle leads to whichever incarnation runs.
//! - **Pressure is a level** ([`pressure`]), not a message: nobody can miss it.
//! - **Everything is visible**: [`Tree::snapshot`] and [`Tree::record_metrics`].

mod actor;
mod awake;
mod backoff;
mod budget;
mod call;
mod child;
mod child_events;
mod exit;
mod handle;
mod incarnation;
mod load;
mod notice;
pub mod pool;
pub mod pressure;
pub mod private_server;
pub mod process;
mod root;
mod slot;
mod stats;
mod supervise;
mod supervisor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tree;
pub(crate) mod url;

pub use awake::sleep_awake;
pub use backoff::{Backoff, BackoffError};
pub use budget::{
    Budget, BudgetError, BufferLedger, BufferReservation, Buffers, Reservation, ReservationEntry,
    ReservationRequest, reserved_bytes,
};
pub use call::{Call, Message, Reply};
pub use child::{Child, ChildSpec, Heartbeat, IncarnationRef, Kind, Placement, Restart};
pub use exit::{Exit, ProcessExit, SupervisionError, chain};
pub use handle::{AskError, Handle};
pub use load::{
    Load, LoadContext, LoadError, LoadErrorKind, Loaded, MemoryFeedback, Registrar, Resource,
};
pub use notice::{Notice, NoticeKind, NoticeReader, Notices, OomCounter};
pub use process::ProcessRef;
pub use root::Root;
pub use stats::StatsSnapshot;
pub use supervisor::{StartChildError, StartedChild, Strategy, SupervisorHandle, SupervisorSpec};
pub use tree::{ChildState, NodeSnapshot, Tree};
pub use url::UrlFault;
