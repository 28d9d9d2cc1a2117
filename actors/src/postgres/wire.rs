//! What a connection and its watched stream tell each other.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::prefix::Prefix;

/// What one caller of a shared connection must not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("a caller began a transaction on this connection, which it shared with others")]
    Transaction,
    #[error("a caller began a COPY on this connection, which it shared with others")]
    Copy,
}

/// What the server says about the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionState {
    /// There is none.
    None,
    Open,
    /// It can only be rolled back, to a savepoint or whole.
    Failed,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionEnd {
    /// Neither committed nor rolled back: `PREPARE TRANSACTION`.
    Other,
    Committed,
    RolledBack,
}

/// What is shared between a connection and its watched stream.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// How many users share the connection.
    shared_by: AtomicUsize,
    pub(super) misuse: OnceLock<Misuse>,
    /// What the server said when it ended the session.
    farewell: OnceLock<String>,
    /// The state in the last ReadyForQuery, as the server writes it; 0 before the first one.
    state: AtomicU8,
    /// How the last transaction ended, as a [`TransactionEnd`].
    end: AtomicU8,
    /// An ErrorResponse has come, and not yet the ReadyForQuery that follows it.
    has_failed: AtomicBool,
    /// What stands for the search path that the server reported first, and last. 0: it reported none.
    first_path: AtomicU64,
    last_path: AtomicU64,
    /// When the server last sent something.
    heard: Mutex<Option<Instant>>,
    /// What is sent right before the next statements, in their order.
    prefixes: Mutex<VecDeque<Prefix>>,
    pub(super) has_prefix: AtomicBool,
    /// Whether statements have no names at the server.
    pub(super) is_unnamed: bool,
    /// An answer had columns of other types.
    pub(super) has_new_types: AtomicBool,
}

impl Wire {
    /// For a connection through a pooler, where statements have no names.
    pub(super) fn unnamed() -> Self {
        Self {
            is_unnamed: true,
            ..Self::default()
        }
    }

    /// The state of the session's transaction after the last answer. An answer that is an error may come
    /// a moment before the state that follows it.
    pub(super) fn transaction(&self) -> TransactionState {
        match self.state.load(Ordering::Acquire) {
            b'T' => TransactionState::Open,
            b'E' => TransactionState::Failed,
            _ => TransactionState::None,
        }
    }

    /// Whether the server has told the state of the session after its last error.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_failed.load(Ordering::Acquire)
    }

    /// How the last transaction ended. Only in a session without one.
    pub(super) fn transaction_end(&self) -> TransactionEnd {
        const COMMITTED: u8 = TransactionEnd::Committed as u8;
        const ROLLED_BACK: u8 = TransactionEnd::RolledBack as u8;
        match self.end.load(Ordering::Acquire) {
            COMMITTED => TransactionEnd::Committed,
            ROLLED_BACK => TransactionEnd::RolledBack,
            _ => TransactionEnd::Other,
        }
    }

    /// Records the state in a ReadyForQuery. In a transaction, the tags before it ended an earlier one, or
    /// a part of this one.
    pub(super) fn record_state(&self, state: u8) {
        if state != b'I' {
            self.set_end(TransactionEnd::Other);
        }
        self.state.store(state, Ordering::Release);
        self.has_failed.store(false, Ordering::Release);
    }

    /// Records an ErrorResponse, which ends a transaction unless a commit came before it.
    pub(super) fn record_error(&self) {
        self.has_failed.store(true, Ordering::Release);
        if self.transaction_end() == TransactionEnd::Other {
            self.set_end(TransactionEnd::RolledBack);
        }
    }

    /// Forgets how the last transaction ended, before another one.
    pub(super) fn forget_end(&self) {
        self.set_end(TransactionEnd::Other);
    }

    /// Records that the server has reported a search path, which `hash` stands for.
    pub(super) fn record_search_path(&self, hash: u64) {
        let hash = hash.max(1);
        let (from, to) = (Ordering::AcqRel, Ordering::Relaxed);
        self.first_path.compare_exchange(0, hash, from, to).ok();
        self.last_path.store(hash, Ordering::Release);
    }

    /// What stands for the search path. Zero if it is that of the start of the session, or if the server
    /// reports none.
    pub(super) fn search_path(&self) -> u64 {
        let last = self.last_path.load(Ordering::Acquire);
        if last == self.first_path.load(Ordering::Acquire) {
            0
        } else {
            last
        }
    }

    /// Whether an answer had columns of types that its statement was not described with, since the last
    /// call.
    pub(super) fn take_new_types(&self) -> bool {
        self.has_new_types.load(Ordering::Acquire)
            && self.has_new_types.swap(false, Ordering::AcqRel)
    }

    pub(super) fn record_answer(&self) {
        *lock(&self.heard) = Some(Instant::now());
    }

    /// For how long the server has sent nothing.
    pub(super) fn silent_for(&self) -> Duration {
        let heard = *lock(&self.heard);
        heard.map_or(Duration::MAX, |heard| heard.elapsed())
    }

    /// Sends `statement` with its first poll: right behind `prefix`, and such that the server runs it only
    /// if the prefix succeeds. It is a prepared one, and the connection has only one user; or it has no
    /// name, and all others without a name are sent by this too.
    pub(super) async fn send_behind<T, E>(
        &self,
        prefix: Prefix,
        statement: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut statement = pin!(statement);
        let mut prefix = Some(prefix);
        let first = poll_fn(|cx| {
            // Held meanwhile, so that prefixes and statements have the same order. A driver on another thread
            // that finds the statement sees that there is a prefix, and waits for the lock.
            let mut prefixes = lock(&self.prefixes);
            prefixes.extend(prefix.take());
            self.has_prefix.store(true, Ordering::Release);
            let polled = statement.as_mut().poll(cx);
            if polled.is_ready() {
                // It was not sent.
                prefixes.pop_back();
            }
            self.has_prefix
                .store(!prefixes.is_empty(), Ordering::Release);
            Poll::Ready(polled)
        });
        match first.await {
            Poll::Ready(done) => done,
            Poll::Pending => statement.await,
        }
    }

    pub(super) fn take_prefix(&self) -> Option<Prefix> {
        let mut prefixes = lock(&self.prefixes);
        let next = prefixes.pop_front();
        self.has_prefix
            .store(!prefixes.is_empty(), Ordering::Release);
        next
    }

    pub(super) fn set_end(&self, end: TransactionEnd) {
        self.end.store(end as u8, Ordering::Release);
    }

    /// Counts one more user that shares the connection.
    pub(super) fn begin_sharing(&self) {
        self.shared_by.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end_sharing(&self) {
        self.shared_by.fetch_sub(1, Ordering::AcqRel);
    }

    /// Why the connection has failed, if a caller is the reason.
    pub(super) fn misuse(&self) -> Option<Misuse> {
        self.misuse.get().copied()
    }

    /// Records what the server said when it ended the session.
    pub(super) fn record_farewell(&self, reason: String) {
        self.farewell.get_or_init(|| reason);
    }

    /// Why the connection was lost, if a caller is the reason, or if the server has said it.
    pub(super) fn why_lost(&self) -> Option<String> {
        let misuse = self.misuse().map(|misuse| misuse.to_string());
        misuse.or_else(|| self.farewell.get().cloned())
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared_by.load(Ordering::Acquire) > 0
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The driver is on another thread, and may write a statement as soon as it is there.
    #[tokio::test]
    async fn a_driver_finds_no_statement_without_its_prefix() {
        let wire = Wire::default();
        let statement = poll_fn(|_| {
            assert!(wire.has_prefix.load(Ordering::Acquire));
            Poll::<Result<(), ()>>::Pending
        });
        let sent = wire.send_behind(Prefix::new(&["BEGIN"]), statement);
        assert!(tokio::time::timeout(Duration::ZERO, sent).await.is_err());
        assert!(wire.take_prefix().is_some());
        assert!(!wire.has_prefix.load(Ordering::Acquire));
    }
}
