//! Connects load tests with the parts of the server that they measure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use headroom_actors::memory::Memory;

use crate::routes::{LOAD_TEST_BYTES_MAX, LoadTestDeps};
use crate::settings::sections::ServerSettings;
use crate::settings::values::Profile;

/// What load tests need. Warns about a server that others may reach and that allows load tests.
pub(super) fn deps(
    settings: &ServerSettings,
    address: SocketAddr,
    sockets_max: usize,
    memory: &Memory,
) -> LoadTestDeps {
    if settings.profile == Profile::Development && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "server.profile is \"development\", and other machines can reach this server: whoever \
             does can start load tests"
        );
    }
    let account = memory.buffers("load_test", LOAD_TEST_BYTES_MAX);
    LoadTestDeps {
        profile: settings.profile,
        address: as_target(address),
        sockets_max,
        account: Arc::new(account.for_new_work()),
        pressure: memory.pressure(),
        memory: memory.overview(),
    }
}

/// The address at which this machine reaches its own listener.
fn as_target(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_over_the_loopback() {
        for (listener, target) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listener = listener.parse().unwrap();
            assert_eq!(as_target(listener), target.parse().unwrap());
        }
    }
}
