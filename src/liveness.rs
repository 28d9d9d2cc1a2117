//! Whether the thread of the actors runs. All work of the server needs that thread, and the supervisors run on it too. If it
//! stands still, nothing on it can help, only a restart of the process. So other threads tell the operator.
//!
//! The thread records a beat every second. Whoever asks looks at the age of the last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::problem::{Problem, ProblemKind};

/// Time between two beats.
const INTERVAL: Duration = Duration::from_secs(1);

/// After this time without a beat the thread stands still. A busy thread has its longest steps in milliseconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a thread that runs needs at most for the beat that is due. When the whole process continues after a pause
/// (SIGSTOP, a frozen container, a migration), the last beat is old, and the next one is due. Probes wait for a second.
const BEAT_WITHIN: Duration = Duration::from_millis(800);

/// The beats of the thread. Clones share them.
#[derive(Clone, Debug)]
pub struct Liveness(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    begin: Instant,
    /// The time of the last beat, in milliseconds after `begin`.
    last: AtomicU64,
    /// Whether the log has the present silence.
    is_logged: AtomicBool,
}

impl Default for Liveness {
    /// With a first beat now.
    fn default() -> Self {
        Self(Arc::new(Beats {
            begin: Instant::now(),
            last: AtomicU64::new(0),
            is_logged: AtomicBool::new(false),
        }))
    }
}

impl Liveness {
    /// Records beats for ever. Must run on the thread of the actors.
    pub async fn beat(self) {
        loop {
            self.0.last.store(self.0.now(), Relaxed);
            self.0.is_logged.store(false, Relaxed);
            sleep(INTERVAL).await;
        }
    }

    /// How long the thread has stood still, if it does.
    pub fn silence(&self) -> Option<Duration> {
        let silence = self.0.now().saturating_sub(self.0.last.load(Relaxed));
        let silence = Duration::from_millis(silence);
        (silence > SILENCE_MAX).then_some(silence)
    }

    /// Fails if the thread stands still. A thread that has only been paused with its process gets time for a beat.
    ///
    /// # Errors
    /// A 503.
    pub async fn check(&self) -> Result<(), Problem> {
        if self.silence().is_some() {
            sleep(BEAT_WITHIN).await;
        }
        let Some(silence) = self.silence() else {
            return Ok(());
        };
        let seconds = silence.as_secs();
        if !self.0.is_logged.swap(true, Relaxed) {
            tracing::error!(
                seconds,
                "the actors' thread stands still: the server is not live until it runs"
            );
        }
        Err(Problem::new(
            ProblemKind::NotReady,
            format!(
                "the actors' thread has stood still for {seconds} s: if that stays so, only a restart of the server helps"
            ),
        ))
    }
}

impl Beats {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_beats_is_live_however_long() {
        let liveness = Liveness::default();
        let beating = tokio::spawn(liveness.clone().beat());
        for _ in 0..100 {
            sleep(Duration::from_secs(3)).await;
            assert_eq!(liveness.silence(), None);
            assert!(liveness.check().await.is_ok());
        }
        beating.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_without_a_beat_is_live_for_ten_seconds() {
        let liveness = Liveness::default();
        advance(SILENCE_MAX).await;
        assert!(liveness.check().await.is_ok());
        advance(Duration::from_secs(1)).await;
        let problem = liveness.check().await.unwrap_err();
        assert_eq!(problem.kind, ProblemKind::NotReady);
        assert!(problem.detail.contains("11 s"), "{problem}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_was_paused_with_its_process_gets_time_for_a_beat() {
        let liveness = Liveness::default();
        // As after a pause: the last beat is old, and the thread runs.
        advance(Duration::from_secs(3600)).await;
        assert!(liveness.silence().is_some());
        let beating = tokio::spawn(liveness.clone().beat());
        assert!(liveness.check().await.is_ok());
        beating.abort();
    }
}
