//! One provider of a chain: an actor that owns all connections to it.
//!
//! Why an actor: a provider has a rate, faults and a state that all calls share, so somebody must know them before each
//! call is sent, and learn from each answer.
//!
//! Layout: [`Provider`] is the actor. `shared` has what it shares with its [`View`], which outlives its restarts.
//! `exchange` makes one request and records what it says of the provider, `served_chain` asks for the chain, `transport` is the HTTP client of an
//! `endpoint`, `wire` writes
//! requests and reads answers, `classify` tells errors of callers from errors of the provider, `health` looks after the
//! provider, `subscription` follows its newest blocks over a WebSocket, `rate` and `circuit` decide whether it gets calls, `learned` has what it lacks, `figures` what is measured. `trial` looks at a provider without its actor.
//!
//! Guarantees:
//! - **No call waits here**, but for others that go with it: what may not be sent now is refused at once, with the reason
//!   ([`Unused`]).
//! - **A wrong chain is never used.** After each new connection, no answer is passed on before the provider has told its
//!   chain again.
//! - **Errors of callers pass through unchanged**, and count against no provider.
//! - **Bounds**: requests and calls at once, bytes of an answer, its time, its pauses, and all that is learned. The bytes
//!   of an answer are reserved in the memory budget while they come.
//! - **An answer counts only if it is whole**: JSON-RPC, with the ids of its calls, each once.
//! - **No secret leaves it**: of a URL only the scheme, host and port are shown, and an error that contains a part of the
//!   rest, or of a header, is replaced.
//! - **A provider that nobody uses is left alone.**
//!
//! Not guaranteed: that a call which was cancelled or failed had no effect at the provider.

mod actor;
mod circuit;
mod classify;
mod endpoint;
mod exchange;
mod fault;
mod figures;
mod health;
mod learned;
mod messages;
mod metrics;
mod rate;
mod served_chain;
mod shared;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod trial;
mod view;
mod wire;

pub use actor::{Provider, Surroundings};
pub use endpoint::TransportError;
pub use fault::{ErrorKind, Fault, Unused};
pub use figures::{CallCounts, Latencies};
pub use messages::{ReadStatus, Send, SetDrained};
pub use metrics::METRICS;
pub use status::{
    HeadStatus, LatenciesByWeight, Limits, ProviderState, ProviderStatus, RateStatus,
};
pub use tls::Tls;
pub use trial::{Trial, TrialError, try_provider};
pub use view::{Glance, Head, Standing, View};
