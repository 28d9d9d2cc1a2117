//! The loader's settings.

use std::time::Duration;

use super::policy::PolicyKind;
use crate::kernel::Backoff;

/// The loader's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which idle resource goes first when memory is short.
    pub policy: PolicyKind,
    /// How long one load may take, without the wait for its dependencies and for room.
    pub load_deadline: Duration,
    /// How long a load may wait for room that is in use now and may soon be free. At most
    /// [`Config::load_deadline`]. It holds up the loads behind it.
    pub wait_for_room: Duration,
    /// How long failures are remembered. Only the ceilings count: there is one loader, so there is
    /// no herd that jitter would have to spread.
    pub failure_backoff: Backoff,
    /// At a stop, how long users of loaded resources may take before these are unloaded under them.
    pub drain_deadline: Duration,
    /// Callers at once, waiting ones included; further ones are told that the loader is busy.
    pub in_flight_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: PolicyKind::Gdsf,
            load_deadline: Duration::from_secs(60),
            wait_for_room: Duration::from_secs(2),
            failure_backoff: Backoff::DEFAULT,
            drain_deadline: Duration::from_secs(5),
            in_flight_max: 4096,
        }
    }
}
