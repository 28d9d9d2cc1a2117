//! Why a provider has no answer for a call that another one may have.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::kernel::AskError;

/// Why a provider has no answer for a call. Another provider may have one. What is the caller's own fault is an
/// [`Outcome::Error`](crate::chain::rpc::Outcome).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The call was not sent.
    #[error("the provider is not used: {0}")]
    Unused(#[from] Unused),
    /// No connection, or none in time. The call was not sent.
    #[error("the provider cannot be reached: {0}")]
    Connect(String),
    /// The request took longer than its time limit.
    #[error("the provider did not answer in {0:?}")]
    Timeout(Duration),
    /// The connection ended before the answer did.
    #[error("the answer of the provider is cut off")]
    Torn,
    /// A status of HTTP that is neither 200 nor one of a throttled client.
    #[error("the provider answered with the status {0}")]
    Status(u16),
    /// An error of JSON-RPC, with a status that says that the key is refused.
    #[error("the provider refuses its key, with the status {0}")]
    Denied(u16),
    /// The provider has had too many calls.
    #[error("the provider is throttling")]
    Throttled {
        /// When it takes calls again, if it has said so.
        retry_after: Option<Duration>,
    },
    /// The answer is no JSON-RPC.
    #[error("the answer of the provider is no JSON-RPC: {0}")]
    NotRpc(&'static str),
    /// The answer is larger than allowed.
    #[error("the answer of the provider has more than {max} bytes")]
    TooLarge {
        /// The most bytes.
        max: u64,
    },
    /// There is no memory for the answer, whichever provider gives it.
    #[error("there is no memory for the answer of the provider")]
    NoMemory,
    /// The provider answered with an error that is its own.
    #[error("the provider answered with an error of its own: {kind:?}")]
    Error {
        /// What kind of error it is.
        kind: ErrorKind,
        /// The text of `error`, for the caller if no other provider does better.
        error: Bytes,
    },
    /// The actor of the provider has no answer.
    #[error("the owner of the provider: {0}")]
    Owner(#[from] AskError),
}

/// What kind of JSON-RPC error is the provider's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It has failed.
    Internal,
    /// It does not offer the method.
    Unsupported,
    /// It does not have the state of an old block.
    Pruned,
    /// It does not have the block yet.
    Behind,
    /// It searches fewer blocks at once, or the result has too many logs.
    Range,
}

/// Why a provider is not used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unused {
    /// An operator has taken it out of use.
    #[error("it is drained")]
    Drained,
    /// It serves another chain.
    #[error("it serves the chain {found}")]
    WrongChain {
        /// The id of that chain.
        found: u64,
    },
    /// It has not yet told which chain it serves.
    #[error("it has not told its chain yet{}", .fault.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default())]
    Unchecked {
        /// Why not, when it was last asked.
        fault: Option<String>,
    },
    /// Too many calls failed.
    #[error("too many calls failed")]
    CircuitOpen {
        /// When the next one is tried.
        until: Instant,
    },
    /// It is synchronising.
    #[error("it is synchronising")]
    Syncing,
    /// It throttles, or its rate is used up.
    #[error("its rate is used up")]
    Throttled {
        /// When it takes calls again.
        until: Instant,
    },
    /// It has as many calls as it may have.
    #[error("it has as many calls as it may have")]
    Full,
    /// It does not offer the method.
    #[error("it does not offer the method")]
    Unsupported,
    /// It does not have the newest blocks.
    #[error("it is {blocks} blocks behind")]
    Behind {
        /// How many blocks it lacks.
        blocks: u64,
    },
    /// Its newest block is on another branch than that of the chain.
    #[error("it follows another branch")]
    OtherBranch,
    /// It does not have the state of the block.
    #[error("it does not have the state of so old a block")]
    Pruned,
}
