//! Tells a client that has only ended its sending from one that has left.
//!
//! The kernel reports both in the same way. What a client that has left would show, a reset, follows only after something
//! is written to it. But the times differ: `nc -N` and some proxies close their sending side together with the request, and
//! a client leaves when it no longer wants to wait. So a client that closes with its request is given a moment for its
//! answer, and one that closes later counts as gone at once, so that nobody works for clients that have left.
//!
//! Once an answer is being written, its writes tell: they fail if the client has left.

use std::time::Duration;

use tokio::time::Instant;

/// A client that closes its sending side within this time of the last byte of its request may still want the answer.
const WITH_REQUEST: Duration = Duration::from_millis(250);

/// How long after that byte its answer may begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Until when a client counts as present that closed its sending side at `closed`. The last byte of its request was read
/// at `last_byte`.
pub(super) fn present_until(last_byte: Instant, closed: Instant) -> Instant {
    if closed.duration_since(last_byte) <= WITH_REQUEST {
        last_byte + ANSWER_WITHIN
    } else {
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_closes_with_its_request_has_time_for_its_answer() {
        let last_byte = Instant::now();
        for milliseconds in [0, 1, 250] {
            let closed = last_byte + Duration::from_millis(milliseconds);
            let until = last_byte + Duration::from_secs(1);
            assert_eq!(present_until(last_byte, closed), until);
        }
        for milliseconds in [251, 999, 5000] {
            let closed = last_byte + Duration::from_millis(milliseconds);
            assert_eq!(present_until(last_byte, closed), closed);
        }
    }
}
