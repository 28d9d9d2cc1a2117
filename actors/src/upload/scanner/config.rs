//! The settings of the scanner.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::Backoff;

/// Where clamd listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Its `LocalSocket`.
    Unix(PathBuf),
    /// Its `TCPSocket`, as `host:port`. Files cross the network unencrypted.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// The settings of the scanner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannerConfig {
    /// Where clamd listens.
    pub address: Address,
    /// The most files that are scanned at once, those still arriving included. At least 1. clamd's `MaxThreads` should not be lower.
    pub connections_max: u32,
    /// The most callers that may wait for a place. One more is refused.
    pub waiting_max: u32,
    /// The time limit of a connect.
    pub connect_timeout: Duration,
    /// How long clamd may take no byte of a file.
    pub write_timeout: Duration,
    /// How long clamd may take for its verdict, after the last byte.
    pub verdict_timeout: Duration,
    /// How long clamd may take to tell its version. It is slow while it loads signatures, and not down.
    pub check_timeout: Duration,
    /// The number of failed connects in a row after which callers are refused at once. At least 1.
    pub circuit_failures: u32,
    /// How long they are refused before the next connect.
    pub circuit_backoff: Backoff,
}

impl ScannerConfig {
    /// The default settings for the clamd at `address`.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            connections_max: 4,
            waiting_max: 256,
            connect_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            // clamd's own limit for one scan, `MaxScanTime`.
            verdict_timeout: Duration::from_secs(120),
            check_timeout: Duration::from_secs(30),
            circuit_failures: 3,
            circuit_backoff: Backoff::try_new(
                Duration::from_millis(100),
                Duration::from_secs(2),
                Duration::from_secs(30),
            )
            .unwrap_or(Backoff::DEFAULT),
        }
    }
}
