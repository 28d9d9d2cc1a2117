//! The scanner: clamd, ClamAV's server, decides whether a file is infected. One actor owns the way to it.
//!
//! Why an actor: clamd serves few clients at once, so somebody must decide who is next, notice that it is away before
//! each upload waits for it, and know its version and signatures without asking for each request.
//!
//! Why a driver of our own: `clamav-client` reads the whole file from one reader, writes without looking at the answer,
//! and reads answers of any length. So it cannot scan while a file arrives, and it loses an answer that comes early, such
//! as that the file is too large. The protocol is small: `zINSTREAM`, chunks with their lengths, an empty chunk, one
//! line as the answer.
//!
//! Layout: [`Scanner`] is the actor. [`begin`] gives a [`ScanStream`], which the caller's own task writes to; [`follow`]
//! gives one for a file that still arrives. `circuit`
//! decides when to connect, `connection` connects and asks single questions, `reply` reads answers, `facts` is what is
//! known of clamd, and `resource` is what the loader loads.
//!
//! Guarantees:
//! - **Bounds**: at most [`ScannerConfig::connections_max`] files are scanned at once and at most
//!   [`ScannerConfig::waiting_max`] callers wait, who are served in order. Every wait has a limit. Files that still arrive
//!   have at most half of the places, and never wait.
//! - **Clean means that clamd took every byte in order, and the end.** A scan that failed, was torn or was refused for
//!   its size is an error.
//! - **A dropped scan leaves nothing behind**: its connection closes, and its place goes to the next caller.
//! - **A clamd that is away costs little**: after [`ScannerConfig::circuit_failures`] failed connects callers are refused
//!   at once, and one connect at a time looks whether it is back.
//! - **Nothing that clamd says is passed on unbounded or unchecked**: names and texts are short and plain.
//!
//! Each scan has a connection of its own: clamd closes a connection after one answer, and its sessions, which do not,
//! end by a time limit that is not told. So an idle scanner has no connection, and a reload of the signatures concerns
//! none.
//!
//! Not guaranteed: clamd says "clean" of what it skips by its own limits (`MaxFileSize`, `MaxScanSize`, `MaxScanTime`),
//! unless it has `AlertExceedsMax yes`, which reports such a file as infected with `Heuristics.Limits.Exceeded`. Only
//! `StreamMaxLength` is an error. And a file that arrives slowly keeps its place for as long: whoever has slow senders
//! gives the scan up, and begins it again when the file is there.

mod actor;
mod circuit;
mod config;
mod connection;
mod error;
mod facts;
mod metrics;
mod reply;
mod resource;
mod stream;
#[cfg(test)]
mod tests;

pub use actor::{Check, Scanner, Status, begin, follow};
pub use config::{Address, ScannerConfig};
pub use connection::try_once;
pub use error::{ScanError, TimeoutCause};
pub use facts::{ScannerState, ScannerStatus, Signatures};
pub use metrics::{METRICS, start_at_zero};
pub use resource::resource;
pub use stream::{ScanStream, Verdict};
