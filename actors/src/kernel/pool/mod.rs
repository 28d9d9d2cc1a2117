//! Pools of connections: one owner actor per pool, generic over what it connects to.
//!
//! Why an actor: who waits, who holds what since when, and what is being opened is one state, and
//! everything that must be true of it (never more than the maximum, first come first served, no
//! waiter forgotten) is easy to keep when only one changes it. That state is `PoolState`, which knows
//! neither actors nor connections and is tested by itself; the actor carries out what it says.
//!
//! What it promises:
//! - Nothing connects before the first [`Checkout`], and growth follows what waiting costs: a new
//!   connection is opened when to wait for one of those there takes longer than to open it.
//! - Waiters are bounded and served in order. Whoever goes away leaves nothing behind: neither a
//!   place in the queue nor a connection. A connect goes on without its caller and is of use to
//!   the next.
//! - Connections live for a bounded time, are asked whether they are well when they were idle for
//!   long, are closed when nobody needs them, and below the minimum when memory is short.
//! - A server that is away is not run over: a circuit opens, and one connect tries now and then.
//! - Whoever keeps a connection for too long is named with file and line.

mod circuit;
mod config;
mod connect;
mod error;
mod figures;
mod growth;
mod histogram;
mod holders;
mod lease;
mod messages;
mod owner;
mod queue;
mod reaping;
mod serving;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use config::{PoolConfig, PoolConfigError};
pub use connect::{ConfiguredUrl, Connect, ConnectError, ConnectErrorKind, Locate};
pub use error::{CheckoutError, TimeoutCause};
pub use histogram::{Histogram, Quantiles};
pub use lease::Lease;
pub use messages::{Checkout, Mode, Status, check_out};
pub use owner::Pool;
pub use status::{CircuitState, CircuitStatus, CloseReason, Holder, PoolStatus};
