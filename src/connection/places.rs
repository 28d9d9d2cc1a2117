//! The places for the connections of one server, and the warning that none is left.
//!
//! Without it, a full server looks idle: further clients wait in the listen queue, where nothing counts them.

use std::time::Instant;

use crate::telemetry::Tally;

/// The open connections that each of `workers` threads may have, if all together may have `connections_max`.
pub(super) fn places_of_thread(connections_max: usize, workers: usize) -> usize {
    (connections_max / workers.max(1)).max(1)
}

/// The open connections that all `workers` threads together may have.
pub(crate) fn places(connections_max: usize, workers: usize) -> usize {
    places_of_thread(connections_max, workers).saturating_mul(workers.max(1))
}

/// Warns when all places of a server are taken.
#[derive(Debug)]
pub(super) struct Places {
    server: &'static str,
    places: usize,
    warnings: Tally,
}

impl Places {
    /// The `places` of the server that is named `server`.
    pub(super) fn new(server: &'static str, places: usize) -> Self {
        Self {
            server,
            places,
            warnings: Tally::default(),
        }
    }

    /// A connection has been opened, and `open` are open now.
    pub(super) fn on_opened(&self, open: usize) {
        if self.warns(open, Instant::now()) {
            tracing::warn!(
                server = self.server,
                connections = open,
                "the most connections are open; new clients wait until one is closed"
            );
        }
    }

    fn warns(&self, open: usize, now: Instant) -> bool {
        open >= self.places && self.warnings.add(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WARN_EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn all_threads_have_the_same_number_of_places_and_at_least_one() {
        for (connections_max, workers, each, all) in [
            (300, 2, 150, 300),
            (20, 3, 6, 18),
            (1, 4, 1, 4),
            (5, 0, 5, 5),
        ] {
            assert_eq!(places_of_thread(connections_max, workers), each);
            assert_eq!(places(connections_max, workers), all);
        }
    }

    #[test]
    fn a_full_server_warns_once_in_ten_seconds() {
        let (places, begun) = (Places::new("http", 2), Instant::now());
        assert!(!places.warns(1, begun));
        assert!(places.warns(2, begun));
        assert!(!places.warns(3, begun + WARN_EVERY / 2));
        assert!(!places.warns(1, begun + WARN_EVERY));
        assert!(places.warns(2, begun + WARN_EVERY));
    }
}
