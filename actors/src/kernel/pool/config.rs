//! The settings of a pool.

use std::time::Duration;

use crate::kernel::Backoff;

/// The settings of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Connections that stay open although they are idle. They too are opened on demand.
    pub connections_min: u32,
    /// The most connections at once, including those that are being opened, and closed ones that the
    /// server has not let go of.
    pub connections_max: u32,
    /// The most callers that may wait at once. One more is refused.
    pub waiting_max: u32,
    /// The time limit of a connect, of a check and of a reset.
    pub connect_timeout: Duration,
    /// An idle connection above the minimum is closed after this time.
    pub idle_timeout: Duration,
    /// The longest lifetime of a connection. Each connection gets up to a tenth less at random, so
    /// that connections that were opened together are not closed together.
    pub lifetime: Duration,
    /// A connection that was idle for longer is checked before it is leased.
    pub check_after_idle: Duration,
    /// A lease that lasts longer is logged with the place that holds it.
    pub leak_after: Duration,
    /// The most connections at once that have several users and answer them quickly. Connections
    /// with one user, and those that a slow request holds up, do not count.
    pub shared_max: u32,
    /// The most users of one shared connection.
    pub shared_depth: u32,
    /// The number of failed connects in a row that opens the circuit.
    pub circuit_failures: u32,
    /// The wait after a failed connect, also while the circuit is open. It is longer, up to half a
    /// minute, while the server denies access and nothing changes that the driver reads.
    pub circuit_backoff: Backoff,
    /// How long a stop waits for leases to end.
    pub drain_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connections_min: 5,
            connections_max: 30,
            waiting_max: 1024,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10 * 60),
            lifetime: Duration::from_secs(30 * 60),
            check_after_idle: Duration::from_secs(30),
            leak_after: Duration::from_secs(30),
            shared_max: 1,
            shared_depth: 512,
            circuit_failures: 5,
            // A server that is back is found within a second.
            circuit_backoff: Backoff::try_new(
                Duration::from_millis(50),
                Duration::from_secs(1),
                Duration::from_secs(30),
            )
            .unwrap_or(Backoff::DEFAULT),
            drain_timeout: Duration::from_secs(5),
        }
    }
}
