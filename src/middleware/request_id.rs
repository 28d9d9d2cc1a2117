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
    match given {
        Some(given) if is_valid(given.as_bytes()) => given.clone(),
        _ => new_request_id(),
    }
}

/// A new id, for a request whose head cannot be read.
pub(crate) fn new_request_id() -> HeaderValue {
    static PROCESS: LazyLock<String> = LazyLock::new(|| {
        let random = RandomState::new().build_hasher().finish();
        format!("{random:016x}-")
    });
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = [PROCESS.as_str(), hex(count, &mut [0; 16])].concat();
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown"))
}

/// `number` in hexadecimal, written to the end of `digits`. Every request pays for this, and `format!` takes
/// several times as long.
fn hex(mut number: u64, digits: &mut [u8; 16]) -> &str {
    let mut begin = digits.len();
    while begin > 0 && (number > 0 || begin == digits.len()) {
        begin -= 1;
        digits[begin] = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
    std::str::from_utf8(&digits[begin..]).unwrap_or_default()
}

fn is_valid(id: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::{hex, request_id};

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
    fn writes_numbers_in_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 0x1f2e, u64::MAX] {
            assert_eq!(hex(number, &mut [0; 16]), format!("{number:x}"));
        }
    }

    #[test]
    fn makes_different_ids() {
        assert_ne!(request_id(None), request_id(None));
    }
}
