//! Raises the limit of file descriptors, and keeps a reserve that clients cannot use.
//!
//! Without the reserve, idle clients could use the last descriptor. Then memory could not be read, the
//! admin listener could not accept a connection, and no process could be started.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::routes::LOAD_TEST_SOCKETS_MAX;
use crate::settings::sections::ServerSettings;
use crate::settings::values::Profile;

/// The smallest reserve: listeners, logs, sockets and files shared with hosts, connections to other
/// servers, and files of the kernel that are read for memory.
const RESERVE_MIN: u64 = 128;

/// The least descriptors that the server can work with.
pub const LEAST: u64 = 128;

/// The reserve is at least one in this many descriptors: with more descriptors, more models may run.
const RESERVE_PART: u64 = 4;

/// Load tests get at most one in this many of the descriptors that the reserve leaves. Each of their
/// sockets has its other end in the server, among the connections of clients.
const LOAD_TEST_PART: usize = 4;

/// Raises the soft limit of descriptors to the hard limit, and returns it.
///
/// # Errors
/// The limit cannot be read or raised.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Sockets, each of which takes a descriptor that is not of the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// The connections that clients may open.
    pub connections: usize,
    /// The connections that a load test may open as a client of its own server.
    pub load_test: usize,
}

impl Sockets {
    /// What a server with these settings wants.
    pub fn wanted(settings: &ServerSettings) -> Self {
        Self {
            connections: settings.connections_max.get(),
            load_test: match settings.profile {
                Profile::Development => LOAD_TEST_SOCKETS_MAX as usize,
                Profile::Production => 0,
            },
        }
    }

    /// What is possible of this with `descriptors`, less the reserve, which is at most half of them.
    #[must_use]
    pub fn within(self, descriptors: u64) -> Self {
        let reserve = (descriptors / RESERVE_PART).max(RESERVE_MIN);
        let left = descriptors - reserve.min(descriptors / 2);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let load_test = self.load_test.min(left / LOAD_TEST_PART);
        Self {
            connections: self.connections.min(left - load_test).max(1),
            load_test,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sockets;

    fn sockets(connections: usize, load_test: usize) -> Sockets {
        Sockets {
            connections,
            load_test,
        }
    }

    #[test]
    fn clients_leave_a_reserve_whatever_the_limit() {
        for (descriptors, connections) in [
            (0, 1),
            (64, 32),
            (256, 128),
            (1024, 768),
            (4096, 3072),
            (1 << 20, 20_000),
            (u64::MAX, 20_000),
        ] {
            let possible = sockets(20_000, 0).within(descriptors);
            assert_eq!(possible, sockets(connections, 0), "of {descriptors}");
        }
        assert_eq!(sockets(10, 0).within(1024), sockets(10, 0));
    }

    #[test]
    fn sockets_of_load_tests_are_taken_from_the_share_of_clients_and_not_from_the_reserve() {
        for (descriptors, connections, load_test) in [
            (0, 1, 0),
            (256, 96, 32),
            (1024, 576, 192),
            (4096, 2572, 500),
            (1 << 20, 20_000, 500),
        ] {
            let possible = sockets(20_000, 500).within(descriptors);
            let expected = sockets(connections, load_test);
            assert_eq!(possible, expected, "of {descriptors}");
        }
    }
}
