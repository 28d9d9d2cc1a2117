//! The actor kernel: what all modules share. It knows nothing of what they own.
//!
//! actix provides actors, mailboxes and addresses. It has no supervision that survives a panic and
//! no bound on waiting senders, and it does not distinguish an actor that ended from a lost reply.
//! The kernel adds these with the meaning that they have in Erlang/OTP.
//!
//! Guarantees:
//! - **Every exit has a reason** ([`Exit`]), and a supervisor acts on it ([`SupervisorSpec`]).
//! - **Every call is answered, refused or reported lost** ([`Handle::ask`]). The number of calls in
//!   flight is bounded, and a call keeps its permit as long as its work lasts.
//! - **Order**: children start in order, each after the one before is ready, and stop in reverse.
//! - **No addresses**: a [`Handle`] leads to whichever incarnation runs.
//! - **The pressure is a shared value** ([`pressure`]) and not a message, so no subscriber can miss it.
//! - **Everything is visible**: [`Tree::snapshot`] and [`Tree::counted`].

mod actor;
mod awake;
mod backoff;
mod budget;
mod call;
mod changes;
mod child;
mod deadline;
mod event_queue;
mod exit;
mod handle;
mod incarnation;
mod load;
mod metric;
mod notice;
pub mod pool;
pub mod pressure;
pub mod private_server;
pub mod process;
pub mod regular_file;
mod rolling;
mod root;
mod shared_store;
mod slot;
mod stats;
mod supervisor;
mod supervisor_spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text;
mod timestamp;
mod tree;
pub(crate) mod url;

pub use awake::sleep_awake;
pub use backoff::{Backoff, BackoffError};
pub use budget::{
    Budget, BudgetError, BufferReservation, Buffers, FreeMemory, PRIVATE_SERVER, Reservation,
    ReservationEntry, ReservationRequest, reserved_bytes,
};
pub use call::{Call, Message, Reply};
pub use changes::{ChangeReader, Changes};
pub use child::{Child, ChildSpec, IncarnationRef, Restart};
pub use deadline::deadline;
pub use event_queue::{EventBounds, EventReader, EventSender, Queued, event_queue};
pub use exit::{Exit, ProcessExit, SupervisionError, chain};
pub use handle::{AskError, Handle};
pub use load::{
    Load, LoadContext, LoadError, LoadErrorKind, Loaded, MemoryFeedback, Registrar, Resource,
};
pub use metric::{LONG_TIMES, Label, LabelValues, Metric, MetricKind, SHORT_TIMES};
pub use notice::{Notice, NoticeKind, NoticeReader, Notices, OomCounter};
pub use process::ProcessRef;
pub use rolling::{Merge, Rolling, Window};
pub use root::Root;
pub use shared_store::SharedStore;
pub use stats::{OUTCOMES as CALL_OUTCOMES, StatsSnapshot};
pub use supervisor_spec::{
    StartChildError, StartedChild, Strategy, SupervisorHandle, SupervisorSpec,
};
pub use text::shortened;
pub use timestamp::{Clock, Timestamp};
pub use tree::{ChildState, Kind, NodeSnapshot, Tree};
pub use url::UrlFault;
