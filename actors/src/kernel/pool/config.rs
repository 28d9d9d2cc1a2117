//! How a pool behaves.

use std::time::Duration;

use crate::kernel::Backoff;

/// The settings of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Connections that are kept although idle. They are opened by demand like all others.
    pub connections_min: u32,
    /// Connections at most, those being opened included.
    pub connections_max: u32,
    /// Callers that may wait at once; the next one is refused.
    pub waiting_max: u32,
    /// How long opening one may take; the same for a check and for cleaning up after a use.
    pub connect_timeout: Duration,
    /// How long a connection above the minimum may be idle.
    pub idle_timeout: Duration,
    /// How long a connection may live. Each lives up to a tenth shorter, so that those that were
    /// opened together do not end together.
    pub lifetime: Duration,
    /// A connection that was idle for longer is asked whether it is well before it is handed out.
    pub check_after_idle: Duration,
    /// A lease that is held for longer is logged with the place that took it.
    pub leak_after: Duration,
    /// Connections in shared use at most.
    pub shared_max: u32,
    /// Users of one shared connection at most.
    pub shared_depth: u32,
    /// Failed connects in a row that open the circuit.
    pub circuit_failures: u32,
    /// How long to wait between failed connects, the open circuit included.
    pub circuit_backoff: Backoff,
    /// How long a stop waits for leases to come back.
    pub drain_timeout: Duration,
}

/// Settings that make no sense together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolConfigError {
    /// The minimum is above the maximum.
    #[error("connections_min ({min}) is above connections_max ({max})")]
    MinAboveMax {
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// This must be at least 1.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

impl PoolConfig {
    /// Says what is wrong with the settings.
    ///
    /// # Errors
    /// See [`PoolConfigError`].
    pub fn validate(&self) -> Result<(), PoolConfigError> {
        let positive = [
            ("connections_max", self.connections_max),
            ("waiting_max", self.waiting_max),
            ("shared_max", self.shared_max),
            ("shared_depth", self.shared_depth),
            ("circuit_failures", self.circuit_failures),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(PoolConfigError::Zero(name));
        }
        if self.connections_min > self.connections_max {
            return Err(PoolConfigError::MinAboveMax {
                min: self.connections_min,
                max: self.connections_max,
            });
        }
        Ok(())
    }
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
            shared_max: 4,
            shared_depth: 64,
            circuit_failures: 5,
            // Short enough that a server which is back is found within a second.
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
