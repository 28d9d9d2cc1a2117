//! File descriptors: as many as the process may have, and a part of them kept from clients.
//!
//! Without that part, idle clients would take the last descriptor: the sampler could open no file of
//! the kernel, the admin listener could accept nobody, and no process could be started.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the server itself needs at least: listeners, logs, sockets and files shared with
/// model processes, connections to other servers, and whatever the sampler opens.
const RESERVE_MIN: u64 = 128;

/// The same as a part (one in so many) of all: who may have many descriptors runs more models.
const RESERVE_PART: u64 = 4;

/// Raises the soft limit of descriptors to the hard one, and says how many that are.
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

/// How many connections clients may have of `descriptors`, at most `wanted`: the reserve stays. No
/// more than half of a very small number is kept.
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
