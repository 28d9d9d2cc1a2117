//! How many calls and connections each client has at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::HttpRequest;

/// Who calls, for limits: the network address, as long as clients have no keys. Of IPv6 it is the network of 64 bits: a host has
/// all addresses of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Caller(IpAddr);

impl Caller {
    /// Who sent the request.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let address = request.peer_addr().map(|address| address.ip());
        Self::at(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }

    fn at(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(host) => Ipv6Addr::from_bits(host.to_bits() >> 64 << 64).into(),
            host => host,
        })
    }

    /// Its name for what outlives a request.
    pub(super) fn name(self) -> Arc<str> {
        self.0.to_string().into()
    }
}

/// The places of all clients, of one kind: for calls, or for connections. There is an entry for each client that has some, so
/// connections bound their number. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    places_max: usize,
    taken: Arc<Mutex<HashMap<Caller, usize>>>,
}

/// Places of a client, until it is dropped.
#[derive(Debug)]
pub(super) struct Places {
    callers: Callers,
    caller: Caller,
    count: usize,
}

impl Callers {
    /// Each has at most `places_max` places.
    pub(super) fn new(places_max: usize) -> Self {
        Self {
            places_max,
            taken: Arc::default(),
        }
    }

    /// The most places of one client.
    pub(super) fn places_max(&self) -> usize {
        self.places_max
    }

    /// Takes so many places. `None` if the client would have too many.
    pub(super) fn enter(&self, caller: Caller, count: usize) -> Option<Places> {
        let mut all = self.lock();
        let before = all.get(&caller).copied().unwrap_or(0);
        if before + count > self.places_max {
            return None;
        }
        all.insert(caller, before + count);
        Some(Places {
            callers: self.clone(),
            caller,
            count,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut all = self.callers.lock();
        if let Some(taken) = all.get_mut(&self.caller) {
            *taken -= self.count.min(*taken);
            if *taken == 0 {
                all.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_places_of_its_own_which_it_gives_back() {
        let callers = Callers::new(3);
        let [one, two] = [1, 2].map(|last| Caller(Ipv4Addr::new(127, 0, 0, last).into()));
        let first = callers.enter(one, 2).unwrap();
        assert!(callers.enter(one, 2).is_none());
        let _second = callers.enter(one, 1).unwrap();
        assert!(callers.enter(one, 1).is_none());
        let others = callers.enter(two, 3).unwrap();
        drop(first);
        callers.enter(one, 2).unwrap();
        drop(others);
        assert_eq!(callers.lock().len(), 1);
    }

    #[test]
    fn a_host_is_one_client_whichever_of_its_addresses_it_uses() {
        let at = |address: &str| Caller::at(address.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::3"), at("2001:db8:1:2:ffff::"));
        assert_ne!(at("2001:db8:1:2::3"), at("2001:db8:1:3::3"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
