//! Connection pools. One actor owns each pool and does not depend on the driver.
//!
//! Why an actor: the queue of callers, the leases and the connections that are being opened form one
//! state, and its rules hold easily when one owner alone changes it: never more connections than the
//! maximum, callers are served in order, no caller is forgotten. `PoolState` holds that state and its
//! rules. It knows no actors and waits for nothing, and has tests of its own. The actor carries out the
//! effects that it asks for.
//!
//! Layout: `actor` is the actor, and `state` the state. The rules are in `serving` (which waiter gets
//! which connection), `sharing` (which connections callers share; `board` lets callers join them without
//! asking the actor), `growth` (when to open another one),
//! `expiry` (what is due by time), `circuit` and `holders` (who holds leases for too long). `connect` is
//! the interface to a driver, and `handle` that to callers.
//!
//! Guarantees:
//! - No connection is opened before the first checkout ([`PoolHandle::check_out`]). The pool grows when waiting for an
//!   existing connection takes longer than opening another one.
//! - The queue is bounded and is served in order. A caller that gives up leaves nothing behind,
//!   neither an entry in the queue nor a lease. A connect outlives its caller, and its connection
//!   goes to the next one.
//! - No caller waits while a connection could serve it. Nobody is put behind a request that has shown
//!   to be slow.
//! - A connection counts against the maximum until its server has let go of it ([`Connect::retire`]).
//! - Connections have a bounded lifetime. The pool checks them after a long idle time, closes those
//!   that are not needed, and goes below its minimum when memory is short.
//! - A server that is away is not flooded: a circuit opens, and one connect at a time tests the
//!   server.
//! - The log names the file and line of a caller that keeps a connection for too long.

mod actor;
mod board;
mod circuit;
mod config;
mod connect;
mod error;
mod expiry;
mod figures;
mod growth;
mod handle;
mod histogram;
mod holders;
mod lease;
mod queue;
mod serving;
mod sharing;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use actor::{Pool, Status};
pub use config::PoolConfig;
pub use connect::{Connect, ConnectError, ConnectErrorKind};
pub use error::{CheckoutError, TimeoutCause};
pub use figures::METRICS;
pub use handle::PoolHandle;
pub use histogram::Quantiles;
pub use lease::{Lease, Mode};
pub use status::{CircuitState, CircuitStatus, CloseReason, Holder, PoolStatus};
