//! How many calls a provider gets: the rate of the settings, and the rate that its refusals teach.
//!
//! A refusal halves the rate, at most once for the calls that were under way together. Each second without one raises it
//! by a twentieth of the rate that was refused (additive increase, multiplicative decrease). What the provider says of
//! when it takes calls again is obeyed.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::chain::methods::Weight;

/// What the limiter gives each second, and at most at once. A call takes the share of it that the call is of the rate, so
/// a new rate needs no new limiter.
const UNITS: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

/// The lowest rate: a provider that refuses everything is still asked sometimes.
const RATE_MIN: f64 = 0.5;

/// The pause after a refusal that names none. It doubles up to the longest while refusals follow each other.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The longest pause that a provider may ask for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(3600);

const RAISE_EVERY: Duration = Duration::from_secs(1);
const RAISE_SHARE: f64 = 0.05;

/// A learned rate is forgotten when it is so many times the rate that was refused.
const FORGET_AT: f64 = 2.0;

/// The time over which the present rate is measured.
const MEASURED: Duration = Duration::from_secs(5);

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

#[derive(Debug)]
pub(super) struct RateBudget {
    limiter: Limiter,
    clock: DefaultClock,
    /// The rate of the settings, in weight per second.
    rate_max: Option<f64>,
    /// The rate that refusals taught.
    learned: Option<f64>,
    /// The rate at the last refusal.
    refused_at: f64,
    /// Calls that were sent before this do not lower the rate once more.
    lowered_at: Option<Instant>,
    raised_at: Instant,
    /// No call before this, because the provider has refused one.
    pub(super) paused_until: Option<Instant>,
    /// No call before this, because the rate is used up.
    exhausted_until: Option<Instant>,
    /// Refusals since the last answer.
    refusals: u32,
    /// The share that was left after the last call, and when that was.
    left: (f64, Instant),
    /// The weight of calls in the present measurement, when that began, and the rate of the one before.
    measured: (f64, Instant, f64),
}

impl RateBudget {
    pub(super) fn new(rate_max: Option<f64>, now: Instant) -> Self {
        let quota = Quota::per_second(UNITS);
        Self {
            limiter: RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>(),
            clock: DefaultClock::default(),
            rate_max: rate_max.map(|rate| rate.max(RATE_MIN)),
            learned: None,
            refused_at: 0.0,
            lowered_at: None,
            raised_at: now,
            paused_until: None,
            exhausted_until: None,
            refusals: 0,
            left: (1.0, now),
            measured: (0.0, now, 0.0),
        }
    }

    /// The rate that holds now. `None`: unlimited.
    pub(super) fn rate(&self) -> Option<f64> {
        match (self.rate_max, self.learned) {
            (Some(max), Some(learned)) => Some(max.min(learned)),
            (max, learned) => max.or(learned),
        }
    }

    /// The rate that refusals taught, if they did.
    pub(super) fn learned(&self) -> Option<f64> {
        self.learned
    }

    /// The weight that may be sent at once now. `None`: unlimited.
    pub(super) fn left(&self, now: Instant) -> Option<f64> {
        let rate = self.rate()?;
        if self.refuses_until(now).is_some() {
            return Some(0.0);
        }
        let (left, at) = self.left;
        let since = now.saturating_duration_since(at).as_secs_f64();
        Some((left + since).min(1.0) * rate)
    }

    /// Until when calls are refused, if they are.
    pub(super) fn refuses_until(&self, now: Instant) -> Option<Instant> {
        let later = self.paused_until.max(self.exhausted_until);
        later.filter(|until| *until > now)
    }

    /// Takes the weight of a call. Nothing waits: without enough of it, the call is not sent.
    ///
    /// # Errors
    /// When there is enough again.
    pub(super) fn take(&mut self, weight: Weight, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.refuses_until(now) {
            return Err(until);
        }
        self.raise(now);
        let weight = f64::from(weight as u32);
        if let Some(rate) = self.rate() {
            match self.limiter.check_n(units(weight / rate)) {
                Ok(Ok(state)) => {
                    let left = state.remaining_burst_capacity();
                    self.left = (f64::from(left) / f64::from(UNITS.get()), now);
                }
                Ok(Err(not_until)) => {
                    let until = now + not_until.wait_time_from(self.clock.now());
                    self.exhausted_until = Some(until);
                    return Err(until);
                }
                // `units` never asks for more than there can be.
                Err(_) => {}
            }
        }
        self.measure(weight, now);
        Ok(())
    }

    fn measure(&mut self, weight: f64, now: Instant) {
        let (sum, began, _) = self.measured;
        let since = now.saturating_duration_since(began);
        if since >= MEASURED {
            self.measured = (weight, now, sum / since.as_secs_f64());
        } else {
            self.measured.0 += weight;
        }
    }

    /// The weight per second that was sent lately.
    fn measured_rate(&self, now: Instant) -> f64 {
        let (sum, began, before) = self.measured;
        let since = now.saturating_duration_since(began).as_secs_f64();
        (sum / since.max(1.0)).max(before)
    }

    /// The provider has refused a call that was sent at `sent`.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant, retry_after: Option<Duration>) {
        self.raised_at = now;
        if self.lowered_at.is_none_or(|at| sent >= at) {
            self.refusals = self.refusals.saturating_add(1);
            let present = self.rate().unwrap_or(f64::INFINITY);
            let present = present.min(self.measured_rate(now).max(1.0));
            self.refused_at = present;
            self.learned = Some((present / 2.0).max(RATE_MIN));
            self.lowered_at = Some(now);
        }
        let doubled =
            PAUSE_MIN.saturating_mul(2_u32.saturating_pow(self.refusals.saturating_sub(1)));
        let pause = match retry_after {
            Some(asked) => asked.min(ASKED_PAUSE_MAX),
            None => doubled.min(PAUSE_MAX),
        };
        self.paused_until = self.paused_until.max(Some(now + pause));
    }

    /// The provider has answered a call that was sent at `sent`.
    pub(super) fn answered(&mut self, sent: Instant) {
        if self.lowered_at.is_none_or(|at| sent >= at) {
            self.refusals = 0;
        }
    }

    fn raise(&mut self, now: Instant) {
        let Some(learned) = self.learned else {
            return;
        };
        let since = now.saturating_duration_since(self.raised_at);
        let seconds = (since.as_secs_f64() / RAISE_EVERY.as_secs_f64()).floor();
        if seconds < 1.0 {
            return;
        }
        self.raised_at = now;
        let raised = learned + seconds * (self.refused_at * RAISE_SHARE).max(RATE_MIN);
        let ceiling = self
            .rate_max
            .unwrap_or(self.refused_at.max(1.0) * FORGET_AT);
        self.learned = (raised < ceiling).then_some(raised);
    }
}

/// The units of a share of the rate, of which a call takes at least one and at most all.
fn units(share: f64) -> NonZeroU32 {
    let all = f64::from(UNITS.get());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the bounds"
    )]
    let units = (share * all).clamp(1.0, all) as u32;
    NonZeroU32::new(units).unwrap_or(UNITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spent(budget: &mut RateBudget, weight: Weight, now: Instant) -> u32 {
        (0..10_000)
            .take_while(|_| budget.take(weight, now).is_ok())
            .count()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_rate_is_counted_in_weight_and_never_waited_for() {
        let now = Instant::now();
        let mut budget = RateBudget::new(Some(80.0), now);
        assert_eq!(budget.left(now), Some(80.0));
        let sent = spent(&mut budget, Weight::Heavy, now);
        assert!((10..=11).contains(&sent), "{sent}");
        let until = budget.take(Weight::Light, now).unwrap_err();
        assert!(until > now && until < now + SECOND);
        assert_eq!(budget.refuses_until(now), Some(until));
        assert_eq!(budget.left(now), Some(0.0));
    }

    #[test]
    fn a_call_that_is_heavier_than_the_rate_is_sent_alone() {
        let now = Instant::now();
        let mut budget = RateBudget::new(Some(2.0), now);
        budget.take(Weight::Heavy, now).unwrap();
        budget.take(Weight::Light, now).unwrap_err();
    }

    #[test]
    fn without_a_rate_nothing_is_refused_until_the_provider_does() {
        let now = Instant::now();
        let mut budget = RateBudget::new(None, now);
        assert_eq!(spent(&mut budget, Weight::Heavy, now), 10_000);
        assert_eq!(budget.left(now), None);
        budget.refused(now, now, None);
        assert!(budget.rate().unwrap() >= 10_000.0);
        assert!(budget.take(Weight::Light, now).unwrap_err() > now);
    }

    #[test]
    fn a_refusal_halves_the_rate_once_for_the_calls_that_were_under_way() {
        let now = Instant::now();
        let mut budget = RateBudget::new(Some(100.0), now);
        let sent = spent(&mut budget, Weight::Light, now);
        let later = now + SECOND;
        for _ in 0..sent {
            budget.refused(now, later, None);
        }
        let lowered = budget.rate().unwrap();
        assert!((45.0..=51.0).contains(&lowered), "{lowered}");
        budget.refused(later + SECOND, later + SECOND, None);
        assert!(budget.rate().unwrap() < lowered * 0.6);
    }

    #[test]
    fn what_the_provider_asks_for_is_obeyed() {
        let now = Instant::now();
        let mut budget = RateBudget::new(None, now);
        budget.refused(now, now, Some(7 * SECOND));
        budget.refused(now, now, None);
        assert_eq!(budget.refuses_until(now), Some(now + 7 * SECOND));
        budget.take(Weight::Light, now + 6 * SECOND).unwrap_err();
        budget.take(Weight::Light, now + 7 * SECOND).unwrap();
        budget.refused(now, now, Some(SECOND * 1_000_000));
        assert_eq!(budget.refuses_until(now), Some(now + ASKED_PAUSE_MAX));
    }

    #[test]
    fn pauses_double_until_an_answer_comes() {
        let mut now = Instant::now();
        let mut budget = RateBudget::new(None, now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            budget.refused(now, now, None);
            let until = budget.refuses_until(now).unwrap();
            pauses.push(until - now);
            now = until;
        }
        assert_eq!(pauses[..3], [PAUSE_MIN, 2 * PAUSE_MIN, 4 * PAUSE_MIN]);
        assert_eq!(pauses[8], PAUSE_MAX);
        budget.answered(now);
        budget.refused(now, now, None);
        assert_eq!(budget.refuses_until(now), Some(now + PAUSE_MIN));
    }

    #[test]
    fn a_lowered_rate_recovers_slowly_up_to_the_configured_one() {
        let mut now = Instant::now();
        let mut budget = RateBudget::new(Some(100.0), now);
        spent(&mut budget, Weight::Light, now);
        budget.refused(now, now, None);
        let mut before = budget.rate().unwrap();
        let mut seconds = 0;
        while budget.learned().is_some() {
            now += SECOND;
            seconds += 1;
            budget.raise(now);
            let rate = budget.rate().unwrap();
            assert!(rate > before && rate - before <= 6.0, "{before} {rate}");
            before = rate;
            assert!(seconds < 100);
        }
        assert!(seconds >= 8, "{seconds}");
        assert_eq!(budget.rate(), Some(100.0));
    }
}
