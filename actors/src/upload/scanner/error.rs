//! Why a file has no verdict.

use std::sync::Arc;
use std::time::Duration;

use crate::kernel::AskError;

/// Why a file has no verdict. Contains no path of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// clamd cannot be reached, or the connection to it was lost.
    #[error("the virus scanner cannot be reached: {why}")]
    Unreachable {
        /// What happened.
        why: Arc<str>,
        /// The time until the next connect, if this caller was refused without one.
        retry_in: Option<Duration>,
    },
    /// clamd did not do something in time.
    #[error("the virus scanner did not {cause} within {} ms", limit.as_millis())]
    Timeout {
        /// What it did not do.
        cause: TimeoutCause,
        /// The time limit.
        limit: Duration,
    },
    /// clamd refuses files of this size (its `StreamMaxLength`). The file was not scanned.
    #[error("the file is larger than the virus scanner accepts (StreamMaxLength of clamd)")]
    SizeLimit,
    /// The file arrived so slowly that clamd gave up (its `ReadTimeout`, 120 s without a byte). It was not scanned.
    #[error("the file arrived too slowly for the virus scanner (ReadTimeout of clamd)")]
    Starved,
    /// Every place is taken and the queue is full, or the deadline passed before a place was free.
    #[error("the virus scanner is busy: {in_use} scans run and {waiting} callers wait")]
    Busy {
        /// Scans that run.
        in_use: u32,
        /// Callers that wait for a place.
        waiting: u32,
    },
    /// What answers is no clamd.
    #[error("the virus scanner violates its protocol: {0}")]
    Protocol(Arc<str>),
    /// The caller dropped a write before its end, so clamd has a part of the file that is unknown.
    #[error("the scan was torn: a write was dropped before its end")]
    Torn,
    /// clamd reports that it cannot scan the file.
    #[error("the virus scanner reports an error: {0}")]
    Server(Arc<str>),
    /// The scanner's actor did not accept or answer the call.
    #[error("the virus scanner's owner: {0}")]
    Owner(AskError),
}

/// What clamd did not do in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutCause {
    /// Accept a connection.
    Connect,
    /// Take more of the file.
    Write,
    /// Tell its verdict.
    Verdict,
    /// Tell its version.
    Version,
}

impl std::fmt::Display for TimeoutCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "accept a connection",
            Self::Write => "take more of the file",
            Self::Verdict => "tell its verdict",
            Self::Version => "tell its version",
        })
    }
}

impl ScanError {
    /// The connection could not be opened, or was lost.
    pub(super) fn unreachable(why: impl Into<Arc<str>>) -> Self {
        Self::Unreachable {
            why: why.into(),
            retry_in: None,
        }
    }

    /// Whether clamd answers, as far as the error tells.
    pub(super) fn is_up(&self) -> Option<bool> {
        match self {
            Self::SizeLimit | Self::Starved | Self::Server(_) => Some(true),
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Protocol(_) => Some(false),
            Self::Busy { .. } | Self::Torn | Self::Owner(_) => None,
        }
    }
}
