//! Why a call to a chain has no answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::provider::{Fault, Unused};

/// Why a call has no answer. The answers of providers, errors among them, are no errors here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChainError {
    /// The method is refused, for what it does or by the settings.
    #[error("the method {method} is not allowed here")]
    Forbidden {
        /// The method.
        method: Arc<str>,
    },
    /// The call cannot be served as it is.
    #[error("{0}")]
    Invalid(&'static str),
    /// No provider offers the method.
    #[error("no provider offers the method {method}")]
    Unsupported {
        /// The method.
        method: Arc<str>,
    },
    /// No provider can be used for the call now.
    #[error("no provider of the chain can be used: {0}")]
    NoProvider(Unusable),
    /// All providers that were asked have failed.
    #[error("no provider has answered, at {asked} attempts; the last: {last}")]
    Failed {
        /// How many attempts there were.
        asked: u32,
        /// The fault of the last one.
        last: Fault,
    },
    /// Providers gave different answers, and none of them often enough.
    #[error(
        "the providers do not agree: {asked} were asked, {needed} equal answers are needed, and {answers} different ones were given"
    )]
    NoQuorum {
        /// How many were asked.
        asked: u32,
        /// How many must agree.
        needed: u32,
        /// How many different answers there were.
        answers: u32,
    },
    /// The chain was reorganised after a part of the answer was sent.
    #[error("the chain was reorganised meanwhile")]
    Reorganised,
    /// The time of the request is over.
    #[error("no provider has answered in time")]
    Deadline,
    /// There is no memory for the answer.
    #[error("there is no memory for the answer now")]
    Memory,
    /// A bug: the work on the call panicked.
    #[error("the work on this call panicked")]
    Panicked,
}

/// Why each provider cannot be used.
#[derive(Debug, Clone)]
pub struct Unusable {
    /// The providers by name.
    pub reasons: Vec<(Arc<str>, Unused)>,
    /// When one of them may be usable again, if that is known.
    pub retry_after: Option<Duration>,
    /// Whether those whose circuit is open are probed soon, since no other one answers.
    pub is_hurried: bool,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, reason)) in self.reasons.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {reason}")?;
        }
        Ok(())
    }
}

impl ChainError {
    /// Why a call of `method` was sent to no provider.
    pub(super) fn not_sent(unusable: Unusable, method: &Arc<str>) -> Self {
        let mut reasons = unusable.reasons.iter();
        match reasons.all(|(_, reason)| *reason == Unused::Unsupported) {
            true => Self::Unsupported {
                method: Arc::clone(method),
            },
            false => Self::NoProvider(unusable),
        }
    }

    /// The code of JSON-RPC 2.0 or EIP-1474 for it.
    pub fn rpc_code(&self) -> i32 {
        match self {
            Self::Forbidden { .. } | Self::Unsupported { .. } => -32601,
            Self::Invalid(_) => -32602,
            Self::NoProvider(_) | Self::Failed { .. } | Self::Reorganised | Self::Deadline => {
                -32002
            }
            Self::NoQuorum { .. } | Self::Panicked => -32603,
            Self::Memory => -32005,
        }
    }
}
