//! Where the primary's write-ahead log (WAL) was, and when: the measure of how recent a replica's data is.
//!
//! A commit is acknowledged after the primary has flushed its log up to the commit. So a replica that has
//! replayed the log up to where it was flushed at a moment shows every commit that was acknowledged before
//! this moment. This holds whatever the replica knows of its primary, also when it has lost the primary
//! without noticing, and by the clock of this process alone. Commits with `synchronous_commit = off` are
//! acknowledged before they are flushed: they may be missing for up to three times `wal_writer_delay`
//! longer.
//!
//! Positions of two timelines cannot be compared: after a promotion, a replica that still follows the old
//! primary shows nothing new. The timeline is all that tells the logs of two primaries apart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::PgLsn;

use super::call::Caller;
use super::connector::{Connector, check_out};
use super::error::Error;
use super::freshness::FreshnessBound;
use super::pipelined;
use crate::kernel::pool::{Mode, PoolHandle};

/// The longest time to ask the primary. Callers wait for less; the sample serves later ones.
const SAMPLE_WITHIN: Duration = Duration::from_secs(2);

/// The longest wait of a caller for the primary's position: a part of its wait for the replica. Earlier
/// samples may be enough.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// Samples kept at most. With four a second, they are evenly spaced for the last seconds, and then further
/// apart the older they are.
const SAMPLES_MAX: usize = 64;

/// The flushed position, and its timeline: the first eight hex digits of the name of a file of the log.
const POSITION: &str = "\
    select lsn, ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int4
    from (select case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end) flushed (lsn)";

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalPosition {
    pub(super) timeline: i32,
    pub(super) lsn: PgLsn,
}

/// What is known of the primary's log.
pub(super) struct PrimaryWal {
    primary: PoolHandle<Connector>,
    samples: Mutex<Samples>,
    /// Held while the primary is asked; when it was asked last.
    asking: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl PrimaryWal {
    pub(super) fn new(primary: PoolHandle<Connector>) -> Arc<Self> {
        Arc::new(Self {
            primary,
            samples: Mutex::default(),
            asking: Arc::default(),
        })
    }

    /// Asks the primary if it was not asked lately. Waits for the answer only where the samples that there
    /// are can soon show no data within `bound`.
    pub(super) async fn refresh(self: &Arc<Self>, bound: FreshnessBound) {
        let newest = || self.samples().newest();
        let is_due =
            |at: Option<Instant>| at.is_none_or(|at| at.elapsed() >= bound.reading_age_max());
        if !is_due(newest()) && newest().is_some_and(|at| bound.may_include(at)) {
            return;
        }
        if let Ok(asking) = Arc::clone(&self.asking).try_lock_owned()
            && is_due(*asking)
        {
            let wal = Arc::clone(self);
            tokio::spawn(async move { wal.sample(asking).await });
        }
        if !newest().is_some_and(|at| bound.may_include(at)) {
            // The lock is free when the primary has answered. Without an answer, earlier samples serve.
            timeout(WAIT_MAX, self.asking.lock()).await.ok();
        }
    }

    /// The latest known moment before which every acknowledged commit is visible where the log was
    /// replayed up to `position`.
    pub(super) fn visible_until(&self, position: WalPosition) -> Option<Instant> {
        self.samples().visible_until(position)
    }

    async fn sample(&self, mut asked: OwnedMutexGuard<Option<Instant>>) {
        *asked = Some(Instant::now());
        match self.ask().await {
            Ok(Some((asked_at, position))) => self.samples().add(asked_at, position),
            Ok(None) => tracing::debug!("the primary's log has no position: it is a replica"),
            Err(error) => tracing::debug!(%error, "the position of the primary's log is unknown"),
        }
    }

    async fn ask(&self) -> Result<Option<(Instant, WalPosition)>, Error> {
        let caller = Caller::new(SAMPLE_WITHIN);
        let lease = check_out(&self.primary, Mode::Shared, caller).await?;
        let asked_at = Instant::now();
        let output = pipelined::run(lease, POSITION, &[], caller.deadline).await?;
        let row = output.one()?;
        let (lsn, timeline): (Option<PgLsn>, Option<i32>) = (row.try_get(0)?, row.try_get(1)?);
        let position = lsn.zip(timeline);
        Ok(position.map(|(lsn, timeline)| (asked_at, WalPosition { timeline, lsn })))
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The moments at which the primary was asked, in order, and its positions.
#[derive(Debug, Default)]
struct Samples(Vec<(Instant, WalPosition)>);

impl Samples {
    fn newest(&self) -> Option<Instant> {
        self.0.last().map(|(asked_at, _)| *asked_at)
    }

    fn add(&mut self, asked_at: Instant, position: WalPosition) {
        if self.0.len() >= SAMPLES_MAX {
            self.thin_out(asked_at);
        }
        self.0.push((asked_at, position));
    }

    /// Removes the sample whose loss is the least: the gap that it leaves is the smallest in proportion to
    /// its age.
    fn thin_out(&mut self, now: Instant) {
        let gap = |index: usize| {
            let at = |index: usize| self.0[index].0;
            let age = now.saturating_duration_since(at(index)).as_secs_f64();
            let gap = at(index + 1).saturating_duration_since(at(index - 1));
            gap.as_secs_f64() / age.max(f64::MIN_POSITIVE)
        };
        let inner = 1..self.0.len().saturating_sub(1);
        if let Some(index) = inner.min_by(|&left, &right| gap(left).total_cmp(&gap(right))) {
            self.0.remove(index);
        }
    }

    fn visible_until(&self, replayed: WalPosition) -> Option<Instant> {
        let is_replayed = |position: &WalPosition| {
            position.timeline == replayed.timeline && position.lsn <= replayed.lsn
        };
        let mut newest_first = self.0.iter().rev();
        let newest = newest_first.find(|(_, position)| is_replayed(position));
        newest.map(|(asked_at, _)| *asked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: i32, lsn: u64) -> WalPosition {
        let lsn = PgLsn::from(lsn);
        WalPosition { timeline, lsn }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_flushed_before_a_replayed_position_is_visible() {
        const SECOND: Duration = Duration::from_secs(1);
        let start = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.visible_until(at(1, 1000)), None);
        for (second, position) in (0..).zip([at(1, 100), at(1, 200), at(1, 200), at(2, 300)]) {
            samples.add(start + SECOND * second, position);
        }
        assert_eq!(samples.visible_until(at(1, 99)), None);
        assert_eq!(samples.visible_until(at(1, 199)), Some(start));
        assert_eq!(samples.visible_until(at(1, 200)), Some(start + SECOND * 2));
        // More log than the primary's, but another one.
        assert_eq!(samples.visible_until(at(1, 900)), Some(start + SECOND * 2));
        assert_eq!(samples.visible_until(at(3, 900)), None);
        assert_eq!(samples.visible_until(at(2, 300)), Some(start + SECOND * 3));
        assert_eq!(samples.newest(), Some(start + SECOND * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn samples_are_bounded_and_tell_a_lag_of_any_size() {
        const INTERVAL: Duration = Duration::from_millis(250);
        let start = Instant::now();
        let mut samples = Samples::default();
        for n in 0..20_000 {
            samples.add(start + INTERVAL * n, at(1, u64::from(n)));
        }
        assert_eq!(samples.0.len(), SAMPLES_MAX);
        for behind in [0, 1, 4, 40, 400, 4_000, 15_000] {
            let position = at(1, 19_999 - behind);
            let until = samples.visible_until(position).unwrap();
            let lag = samples.newest().unwrap() - until;
            let true_lag = INTERVAL * u32::try_from(behind).unwrap();
            assert!(
                lag >= true_lag && lag <= true_lag * 3 / 2 + INTERVAL,
                "{lag:?}"
            );
        }
    }
}
