//! The id of a request in its response, in the log and in problems. An id that the caller sends is kept,
//! so that a request can be traced through several services.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::http::header::HeaderValue;

/// The longest id that is accepted from a caller.
const LENGTH_MAX: usize = 128;

/// The caller's id if it is valid, otherwise a new id: a random part per process, then a counter. It is
/// visible ASCII.
pub(super) fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    static COUNT: AtomicU64 = AtomicU64::new(1);
    if let Some(given) = given.filter(|id| is_valid(id.as_bytes())) {
        return given.clone();
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = format!("{:016x}-{count:x}", *PROCESS);
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown"))
}

fn is_valid(id: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::request_id;

    #[test]
    fn keeps_a_callers_sane_id() {
        let given = HeaderValue::from_static("order-17/a:b");
        assert_eq!(request_id(Some(&given)), given);
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
            let id = request_id(given.as_ref());
            assert_ne!(Some(&id), given.as_ref());
            assert!(!id.is_empty());
        }
    }

    #[test]
    fn makes_different_ids() {
        assert_ne!(request_id(None), request_id(None));
    }
}
