//! How long a server may work on one statement: about as long as its caller waits.
//!
//! A caller's deadline ends nothing at the server when this process has been killed, or when the network
//! is down. So the session's `statement_timeout` follows the deadline. A change of it costs the server a
//! statement, so it is changed only when it is too short, or much too long.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::Client;

/// The shortest timeout. A shorter one would end statements that a slow network brought late.
const TIMEOUT_MIN_MS: u64 = 64;

/// How much longer than its caller the server may take at least: the caller gets its own error for its
/// deadline, and not that of the server.
pub(super) const MARGIN: Duration = Duration::from_millis(50);

/// The longest timeout: a power of two, below the server's own limit of 31 bits.
const TIMEOUT_MAX_MS: u64 = 1 << 30;

/// A timeout is kept as long as it is at most this many times the caller's time.
const SLACK: u64 = 4;

/// The `statement_timeout` of one session, in milliseconds. 0 is no limit, as at the server.
#[derive(Debug)]
pub(super) struct ServerTimeout {
    /// What the session started with. `RESET ALL` restores it.
    initial: u64,
    /// What it is after everything that was sent. The lock is held while a statement is sent, so that
    /// no other comes between it and a change.
    current: Mutex<u64>,
}

impl ServerTimeout {
    /// Of a session that reported `shown` for `SHOW statement_timeout`. Unreadable text counts as no
    /// limit.
    pub(super) fn new(shown: &str) -> Self {
        let initial = parse(shown).unwrap_or(0);
        Self {
            initial,
            current: Mutex::new(initial),
        }
    }

    /// Sends `request` with its first poll, and waits for its end. The server may work on it for about
    /// `within`.
    pub(super) async fn send<T>(
        &self,
        client: &Client,
        within: Duration,
        request: impl Future<Output = T>,
    ) -> T {
        let mut request = pin!(request);
        let first = poll_fn(|cx| {
            let mut current = self.lock();
            let wanted = choose(*current, self.initial, within);
            if *current != wanted {
                let change = format!("SET statement_timeout = {wanted}");
                // The first poll sends it, and nobody needs the answer.
                let sent = pin!(client.batch_execute(&change)).poll(cx);
                drop(sent);
                *current = wanted;
            }
            Poll::Ready(request.as_mut().poll(cx))
        });
        match first.await {
            Poll::Ready(done) => done,
            Poll::Pending => request.await,
        }
    }

    /// The statement that limits the statements of a transaction to `within`. It follows `BEGIN`.
    pub(super) fn of_transaction(&self, within: Duration) -> String {
        let timeout = shorter(self.initial, whole_ms(within.saturating_add(MARGIN)));
        format!("SET LOCAL statement_timeout = {timeout}")
    }

    /// Records that the session is reset.
    pub(super) fn session_was_reset(&self) {
        *self.lock() = self.initial;
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The timeout for a statement whose caller waits for `within`, in a session where it is `current`.
fn choose(current: u64, initial: u64, within: Duration) -> u64 {
    let least = whole_ms(within.saturating_add(MARGIN)).max(TIMEOUT_MIN_MS);
    if least == TIMEOUT_MAX_MS {
        return initial;
    }
    if current != 0 && (least..=least.saturating_mul(SLACK)).contains(&current) {
        return current;
    }
    shorter(initial, least.next_power_of_two())
}

/// The shorter one of two timeouts, of which 0 is none.
pub(super) fn shorter(one: u64, other: u64) -> u64 {
    if one == 0 || other == 0 {
        one.max(other)
    } else {
        one.min(other)
    }
}

/// Milliseconds as the server takes them: at least one.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    let ms = duration.as_micros().div_ceil(1000);
    u64::try_from(ms)
        .unwrap_or(u64::MAX)
        .clamp(1, TIMEOUT_MAX_MS)
}

/// The milliseconds of a duration as the server shows it: a whole number and its greatest unit.
fn parse(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &shown[digits.len()..] {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_timeout_is_never_shorter_than_the_callers_time_and_rarely_changes() {
        let initial = 30_000;
        assert_eq!(choose(initial, initial, ms(974)), 1024);
        assert_eq!(choose(1024, initial, ms(974)), 1024);
        assert_eq!(choose(1024, initial, ms(206)), 1024, "it fits well enough");
        assert_eq!(choose(1024, initial, ms(205)), 256);
        assert_eq!(choose(1024, initial, ms(975)), 2048);
        assert_eq!(choose(1024, initial, ms(20_000)), initial);
        assert_eq!(choose(1024, initial, Duration::MAX), initial);
        assert_eq!(choose(initial, initial, Duration::ZERO), TIMEOUT_MIN_MS);
        assert_eq!(choose(0, 0, ms(974)), 1024, "the session has no limit");
        for within in 1..5000 {
            for current in [0, 64, 1024, 4096, initial] {
                let chosen = choose(current, initial, ms(within));
                assert!(chosen >= within + 50 && chosen <= 4 * (within + 50).max(TIMEOUT_MIN_MS));
            }
        }
    }

    #[test]
    fn the_servers_own_text_is_read() {
        let shown = ["0", "7ms", "30s", "2min", "1h", "1d", "soon", ""];
        let parsed = shown.map(parse);
        let ms = [0, 7, 30_000, 120_000, 3_600_000, 86_400_000];
        assert_eq!(parsed[..6], ms.map(Some));
        assert_eq!(parsed[6..], [None, None]);
    }
}
