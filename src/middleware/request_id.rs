//! The id of a request in its response, in the log and in problems. An id that the caller sends is kept,
//! so that a request can be traced through several services.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::http::header::HeaderValue;

/// The longest id that is accepted from a caller.
const LENGTH_MAX: usize = 128;

/// A request's id: visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's id if it is valid, otherwise a new id.
    pub fn accept(given: Option<&HeaderValue>) -> Self {
        given
            .filter(|id| is_valid(id.as_bytes()))
            .map_or_else(Self::new, |id| Self(id.clone()))
    }

    /// A new id: a random part per process, then a counter.
    fn new() -> Self {
        static PROCESS: LazyLock<u64> =
            LazyLock::new(|| RandomState::new().build_hasher().finish());
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{count:x}", *PROCESS);
        Self(HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("unknown")
    }

    /// As the value of a header.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_valid(id: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::RequestId;

    #[test]
    fn keeps_a_callers_sane_id() {
        let given = HeaderValue::from_static("order-17/a:b");
        assert_eq!(RequestId::accept(Some(&given)).as_str(), "order-17/a:b");
    }

    #[test]
    fn replaces_what_is_not_an_id() {
        let long = HeaderValue::from_str(&"x".repeat(129)).ok();
        let cases = [
            None,
            Some(HeaderValue::from_static("")),
            Some(HeaderValue::from_static("a b")),
            HeaderValue::from_bytes(b"caf\xe9").ok(),
            long,
        ];
        for given in cases {
            let id = RequestId::accept(given.as_ref());
            assert_ne!(Some(&id.header()), given.as_ref());
            assert!(!id.as_str().is_empty());
        }
    }

    #[test]
    fn makes_different_ids() {
        assert_ne!(RequestId::accept(None), RequestId::accept(None));
    }
}
