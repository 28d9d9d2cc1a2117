//! Raises the limit of file descriptors, and keeps a reserve that clients cannot use.
//!
//! Without the reserve, idle clients could use the last descriptor. Then memory could not be read, the
//! admin listener could not accept a connection, and no process could be started.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The smallest reserve: listeners, logs, sockets and files shared with hosts, connections to other
/// servers, and files of the kernel that are read for memory.
const RESERVE_MIN: u64 = 128;

/// The least descriptors that the server can work with.
pub const LEAST: u64 = 128;

/// The reserve is at least one in this many descriptors: with more descriptors, more models may run.
const RESERVE_PART: u64 = 4;

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

/// The connections that clients may open: `descriptors` less the reserve, at most `wanted`. The reserve
/// is at most half of `descriptors`.
pub fn connections_max(wanted: usize, descriptors: u64) -> usize {
    let reserve = (descriptors / RESERVE_PART).max(RESERVE_MIN);
    let left = descriptors - reserve.min(descriptors / 2);
    wanted
        .min(usize::try_from(left).unwrap_or(usize::MAX))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::connections_max;

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
            let max = connections_max(20_000, descriptors);
            assert_eq!(max, connections, "of {descriptors}");
        }
        assert_eq!(connections_max(10, 1024), 10);
    }
}
