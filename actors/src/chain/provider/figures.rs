//! What is measured of a provider: how long it takes, how often it fails and why.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::chain::methods::Weight;
use crate::kernel::{Merge, Rolling};

/// The part of a new time in the average.
const NEW_PART: f64 = 0.1;

/// Times from 0.1 ms to over 100 s, each bucket a quarter longer than the one before.
const BUCKETS: usize = 64;
const FIRST_SECONDS: f64 = 0.000_1;
const GROWTH: f64 = 1.25;

/// With so many times, all count half: so the newest ones decide.
const TIMES_MAX: u32 = 1024;

/// With fewer times, a quantile says little.
const TIMES_MIN: u32 = 5;

/// What of a call's past counts as lately, and how exactly.
const LATELY: Duration = Duration::from_secs(60);
const SLOT: Duration = Duration::from_secs(5);

/// What a call ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A result.
    Result,
    /// An error of the caller's.
    CallerError,
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// An answer that is cut off.
    Torn,
    /// A status of HTTP.
    Status,
    /// A refusal because of too many calls.
    Throttled,
    /// No JSON-RPC, or too much of it.
    Invalid,
    /// An error of the provider's own.
    ProviderError,
    /// Something that the provider does not offer or does not have.
    Lacking,
}

impl Class {
    pub(super) const ALL: [Self; 10] = [
        Self::Result,
        Self::CallerError,
        Self::Connect,
        Self::Timeout,
        Self::Torn,
        Self::Status,
        Self::Throttled,
        Self::Invalid,
        Self::ProviderError,
        Self::Lacking,
    ];

    /// A fixed word for metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::CallerError => "caller_error",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Torn => "torn",
            Self::Status => "status",
            Self::Throttled => "throttled",
            Self::Invalid => "invalid",
            Self::ProviderError => "provider_error",
            Self::Lacking => "lacking",
        }
    }

    /// Whether the provider has failed.
    fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::Result | Self::CallerError | Self::Throttled | Self::Lacking
        )
    }
}

/// Times of which newer ones count more.
#[derive(Debug, Clone)]
struct Times {
    average: Option<f64>,
    counts: [u32; BUCKETS],
    sum: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            average: None,
            counts: [0; BUCKETS],
            sum: 0,
        }
    }
}

impl Times {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.average = Some(match self.average {
            Some(average) => average + NEW_PART * (seconds - average),
            None => seconds,
        });
        if self.sum >= TIMES_MAX {
            for count in &mut self.counts {
                *count /= 2;
            }
            self.sum = self.counts.iter().sum();
        }
        self.counts[bucket(seconds)] += 1;
        self.sum += 1;
    }

    fn average(&self) -> Option<Duration> {
        self.average.map(Duration::from_secs_f64)
    }

    /// The time in which this share of calls was answered: the upper bound of its bucket.
    fn quantile(&self, share: f64) -> Option<Duration> {
        if self.sum < TIMES_MIN {
            return None;
        }
        let wanted = share * f64::from(self.sum);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if f64::from(seen) >= wanted {
                return Some(upper_bound(bucket));
            }
        }
        Some(upper_bound(BUCKETS - 1))
    }
}

fn bucket(seconds: f64) -> usize {
    let steps = (seconds / FIRST_SECONDS).max(1.0).log(GROWTH).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at least 0"
    )]
    let bucket = steps as usize;
    bucket.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let exponent = i32::try_from(bucket).unwrap_or(i32::MAX);
    Duration::from_secs_f64(FIRST_SECONDS * GROWTH.powi(exponent))
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts([u64; Class::ALL.len()]);

impl Merge for Counts {
    fn merge(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }
}

impl Counts {
    fn of(&self, is_in: impl Fn(Class) -> bool) -> u64 {
        let counts = Class::ALL.iter().zip(self.0);
        counts
            .filter(|(class, _)| is_in(**class))
            .map(|(_, count)| count)
            .sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn share(&self, is_in: impl Fn(Class) -> bool) -> f64 {
        match self.of(|_| true) {
            0 => 0.0,
            all => self.of(is_in) as f64 / all as f64,
        }
    }
}

/// The figures of one provider.
#[derive(Debug)]
pub(super) struct Figures {
    times: [Times; 3],
    lately: Rolling<Counts>,
    total: Counts,
}

/// How long calls of one weight take. What is not known yet is `null`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Latencies {
    /// The average, of which newer calls count more.
    pub average_seconds: Option<f64>,
    /// The time in which half of the calls were answered.
    pub p50_seconds: Option<f64>,
    /// The time in which 95 of 100 were.
    pub p95_seconds: Option<f64>,
    /// The time in which 99 of 100 were.
    pub p99_seconds: Option<f64>,
}

/// Calls by what they ended with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CallCounts {
    /// With a result.
    pub results: u64,
    /// With an error that concerns the caller.
    pub caller_errors: u64,
    /// Without a connection.
    pub connect: u64,
    /// Without an answer in time.
    pub timeout: u64,
    /// With an answer that was cut off.
    pub torn: u64,
    /// With a status of HTTP other than 200.
    pub status: u64,
    /// Refused because of too many calls.
    pub throttled: u64,
    /// With an answer that is no JSON-RPC, or too large.
    pub invalid: u64,
    /// With an error of the provider's own.
    pub provider_errors: u64,
    /// With an error that says that the provider does not offer or does not have something.
    pub lacking: u64,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            times: Default::default(),
            lately: Rolling::new(SLOT, LATELY),
            total: Counts::default(),
        }
    }

    pub(super) fn ended(&mut self, class: Class) {
        let mut one = Counts::default();
        one.0[class as usize] = 1;
        self.lately.add(&one);
        self.total.merge(&one);
    }

    pub(super) fn took(&mut self, weight: Weight, took: Duration) {
        self.times[place(weight)].add(took);
    }

    /// A call was given up after this time. That says something only if it is long.
    pub(super) fn given_up(&mut self, weight: Weight, after: Duration) {
        let times = &mut self.times[place(weight)];
        if times.average().is_none_or(|average| after > average) {
            times.add(after);
        }
    }

    pub(super) fn average(&self, weight: Weight) -> Option<Duration> {
        self.times[place(weight)].average()
    }

    pub(super) fn p95(&self, weight: Weight) -> Option<Duration> {
        self.times[place(weight)].quantile(0.95)
    }

    /// The shares of calls that failed and that were throttled lately.
    pub(super) fn rates(&self) -> (f64, f64) {
        let lately = self.lately.last(LATELY).sum;
        let throttled = lately.share(|class| class == Class::Throttled);
        (lately.share(Class::is_failure), throttled)
    }

    pub(super) fn latencies(&self, weight: Weight) -> Latencies {
        let times = &self.times[place(weight)];
        let quantile = |share| times.quantile(share).map(|it| it.as_secs_f64());
        Latencies {
            average_seconds: times.average,
            p50_seconds: quantile(0.5),
            p95_seconds: quantile(0.95),
            p99_seconds: quantile(0.99),
        }
    }

    /// The calls of the last minute, and all.
    pub(super) fn counts(&self) -> (CallCounts, CallCounts) {
        let lately = self.lately.last(LATELY).sum;
        (call_counts(&lately), call_counts(&self.total))
    }
}

fn call_counts(counts: &Counts) -> CallCounts {
    let of = |class: Class| counts.0[class as usize];
    CallCounts {
        results: of(Class::Result),
        caller_errors: of(Class::CallerError),
        connect: of(Class::Connect),
        timeout: of(Class::Timeout),
        torn: of(Class::Torn),
        status: of(Class::Status),
        throttled: of(Class::Throttled),
        invalid: of(Class::Invalid),
        provider_errors: of(Class::ProviderError),
        lacking: of(Class::Lacking),
    }
}

fn place(weight: Weight) -> usize {
    match weight {
        Weight::Light => 0,
        Weight::Middle => 1,
        Weight::Heavy => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_exact_to_a_quarter_and_forget() {
        let mut figures = Figures::new();
        assert_eq!(figures.p95(Weight::Light), None);
        for _ in 0..95 {
            figures.took(Weight::Light, ms(10));
        }
        for _ in 0..5 {
            figures.took(Weight::Light, ms(1000));
        }
        let p95 = figures.p95(Weight::Light).unwrap();
        assert!(p95 >= ms(10) && p95 < ms(13), "{p95:?}");
        let p99 = figures.latencies(Weight::Light).p99_seconds.unwrap();
        assert!((1.0..1.25).contains(&p99), "{p99}");
        assert_eq!(figures.p95(Weight::Heavy), None, "by weight");
        for _ in 0..20_000 {
            figures.took(Weight::Light, ms(1));
        }
        let latencies = figures.latencies(Weight::Light);
        assert!(latencies.p99_seconds.unwrap() < 0.002, "{latencies:?}");
        assert!(latencies.average_seconds.unwrap() < 0.002);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_given_up_counts_only_if_it_took_longer_than_others() {
        let mut figures = Figures::new();
        for _ in 0..10 {
            figures.took(Weight::Light, ms(100));
        }
        let before = figures.average(Weight::Light).unwrap();
        figures.given_up(Weight::Light, ms(1));
        assert_eq!(figures.average(Weight::Light), Some(before));
        figures.given_up(Weight::Light, ms(500));
        assert!(figures.average(Weight::Light).unwrap() > before);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_of_callers_are_no_failures_and_rates_are_those_of_the_last_minute() {
        let mut figures = Figures::new();
        for class in Class::ALL {
            figures.ended(class);
        }
        let (failed, throttled) = figures.rates();
        assert!((failed - 0.6).abs() < 0.001 && (throttled - 0.1).abs() < 0.001);
        let (lately, total) = figures.counts();
        assert_eq!(lately, total);
        assert_eq!((total.results, total.lacking, total.torn), (1, 1, 1));
        tokio::time::advance(2 * LATELY).await;
        assert_eq!(figures.rates(), (0.0, 0.0));
        assert_eq!(figures.counts(), (CallCounts::default(), total));
    }

    #[test]
    fn no_time_is_without_a_bucket() {
        for seconds in [0.0, 1e-9, 0.000_1, 0.5, 1e9] {
            let bucket = bucket(seconds);
            assert!(bucket < BUCKETS);
            assert!(upper_bound(bucket).as_secs_f64() >= seconds.min(100.0) * 0.999);
        }
    }
}
