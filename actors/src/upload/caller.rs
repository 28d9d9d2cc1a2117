//! Who uploads.

use std::fmt;
use std::net::IpAddr;

/// Who uploads, for quotas: the network address, as long as callers have no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(IpAddr);

impl Caller {
    /// The caller with this address. Addresses of IPv4 that are mapped to IPv6 are those of IPv4.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// Reads what `Display` has written.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
