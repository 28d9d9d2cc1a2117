//! What the server behind a pool reports about itself: the last report, refreshed in the background.
//!
//! Why it exists: a server may be far away, or hang. A request that shows its report waits only for a
//! moment, and what comes later is there for the next request.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use headroom_actors::kernel::AskError;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use crate::last_known::{Answer, LastKnown};
use crate::pools::Pool;

/// How long a server may take for a report. A slower one counts as degraded.
const REPORT_WITHIN: Duration = Duration::from_secs(1);

/// A report of this age is shown without asking again.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// How long a server is waited for that did not report when it was asked last. One that is well again
/// needs a few milliseconds.
const FAILING_WITHIN: Duration = Duration::from_millis(10);

/// How long a failure counts while no connection is open to ask the server again. After that nothing is
/// known of the server, and only the pool's own counters tell how it is.
const FAILURE_COUNTS_FOR: Duration = Duration::from_secs(30);

/// What a server reports about itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ServerReport {
    /// How long it took to report.
    pub report_ms: f64,
    /// Its version, role and load. `None` if no connection was open to ask it.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, Value>)]
    pub facts: Option<Value>,
}

/// The end of one refresh: whether there was a report, or why not.
type Refreshed = Result<(), Arc<str>>;

/// A refresh that is under way, and when it began.
type Running = (Instant, Shared<BoxFuture<'static, Refreshed>>);

/// The last report of one server. Clones share it.
#[derive(Clone, Default)]
pub struct ServerFacts(Arc<Inner>);

#[derive(Default)]
struct Inner {
    last: LastKnown<ServerReport>,
    refresh: Mutex<Refresh>,
}

#[derive(Default)]
struct Refresh {
    /// All requests of this moment wait for the same one.
    running: Option<Running>,
    /// When the server failed to report, and why, if it did so when it was asked last.
    failure: Option<(Instant, Arc<str>)>,
}

impl fmt::Debug for ServerFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerFacts").field(&self.0.last).finish()
    }
}

impl ServerFacts {
    /// The report of the server behind `pool`, from within `within`; otherwise the last one. Asks only
    /// over an open connection.
    pub async fn read(&self, pool: &Pool, within: Duration) -> Answer<ServerReport> {
        let pool = pool.clone();
        self.read_from(within, move || {
            async move {
                let report = pool.facts(REPORT_WITHIN).await;
                report.map_err(|problem| problem.detail.into())
            }
            .boxed()
        })
        .await
    }

    /// Whether the server did not report when it was asked last. Without an open connection it cannot be
    /// asked, and the failure counts for some time.
    pub fn is_failing(&self) -> bool {
        self.lock().failure.is_some()
    }

    async fn read_from(
        &self,
        within: Duration,
        ask: impl FnOnce() -> BoxFuture<'static, Result<Value, Arc<str>>>,
    ) -> Answer<ServerReport> {
        if let Some((age, report)) = self.0.last.last()
            && age < FRESH_FOR
            && !self.is_failing()
        {
            return Answer::of(report);
        }
        let within = match self.is_failing() {
            true => within.min(FAILING_WITHIN),
            false => within,
        };
        let (began, refreshed) = self.refresh(ask);
        // While a server hangs, only the first request waits for the whole bound.
        let left = within.saturating_sub(began.elapsed());
        match timeout(left, refreshed).await {
            Ok(Ok(())) => match self.0.last.last() {
                Some((_, report)) => Answer::of(report),
                None => self.0.last.silent(began, &AskError::Lost),
            },
            Ok(Err(reason)) => self.0.last.silent(began, &reason),
            Err(_) => self.0.last.silent(began, &AskError::TimedOut),
        }
    }

    /// The refresh that is under way, or a new one, and when it began. It goes on when the caller leaves.
    fn refresh(
        &self,
        ask: impl FnOnce() -> BoxFuture<'static, Result<Value, Arc<str>>>,
    ) -> Running {
        let mut refresh = self.lock();
        if let Some(running) = &refresh.running {
            return running.clone();
        }
        let (facts, asked) = (self.clone(), ask());
        let began = Instant::now();
        let running = async move {
            let report = asked.await;
            let took = began.elapsed();
            let mut refresh = facts.lock();
            let failure = refresh.failure.take();
            let failure = failure.filter(|(at, _)| at.elapsed() < FAILURE_COUNTS_FOR);
            let refreshed = match (report, failure) {
                // Its silence has cost the connection, and proves no recovery.
                (Ok(Value::Null), Some((at, reason))) => {
                    refresh.failure = Some((at, Arc::clone(&reason)));
                    Err(reason)
                }
                (Ok(report), _) => {
                    facts.0.last.answered(ServerReport {
                        report_ms: took.as_secs_f64() * 1e3,
                        facts: Some(report).filter(Value::is_object),
                    });
                    Ok(())
                }
                (Err(reason), _) => {
                    refresh.failure = Some((Instant::now(), Arc::clone(&reason)));
                    Err(reason)
                }
            };
            refresh.running = None;
            refreshed
        };
        let running = (began, running.boxed().shared());
        refresh.running = Some(running.clone());
        drop(refresh);
        actix_web::rt::spawn(running.1.clone().map(drop));
        running
    }

    fn lock(&self) -> MutexGuard<'_, Refresh> {
        let refresh = self.0.refresh.lock();
        refresh.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use serde_json::json;
    use tokio::sync::oneshot;
    use tokio::time::sleep;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(40);

    type Report = BoxFuture<'static, Result<Value, Arc<str>>>;

    fn version(number: u32) -> Report {
        ready(Ok(json!({ "version": number }))).boxed()
    }

    fn text(answer: &Answer<ServerReport>) -> Value {
        serde_json::to_value(answer).unwrap()
    }

    #[actix_web::rt::test]
    async fn a_report_is_shown_until_it_is_too_old_and_a_failure_with_the_last_report() {
        let facts = ServerFacts::default();
        let first = facts.read_from(WITHIN, || version(1)).await;
        assert_eq!(text(&first)["version"], 1);
        // It is fresh, so nobody is asked.
        let same = facts.read_from(WITHIN, || pending().boxed()).await;
        assert_eq!(
            (text(&same)["version"].clone(), same.is_answered()),
            (json!(1), true)
        );
        sleep(FRESH_FOR).await;
        let fails = || ready(Err("it hangs".into())).boxed();
        let failed = text(&facts.read_from(WITHIN, fails).await);
        assert_eq!(failed["state"], "no_answer");
        assert_eq!(
            (&failed["reason"], &failed["version"]),
            (&json!("it hangs"), &json!(1))
        );
        assert!(failed["age_seconds"].as_f64() >= Some(1.0));
        assert!(facts.is_failing());
        // Its connection was closed for that, so it cannot be asked.
        let closed = || ready(Ok(Value::Null)).boxed();
        let closed = text(&facts.read_from(WITHIN, closed).await);
        assert_eq!(
            (&closed["reason"], &closed["version"]),
            (&json!("it hangs"), &json!(1))
        );
        let again = facts.read_from(WITHIN, || version(2)).await;
        assert_eq!(text(&again)["version"], 2);
        assert!(!facts.is_failing());
    }

    #[actix_web::rt::test]
    async fn a_failure_does_not_count_for_ever_when_no_connection_is_open_to_ask_again() {
        tokio::time::pause();
        let facts = ServerFacts::default();
        let fails = || ready(Err("it is lost".into())).boxed();
        let none = || ready(Ok(Value::Null)).boxed();
        assert!(!facts.read_from(WITHIN, fails).await.is_answered());
        for _ in 0..4 {
            tokio::time::advance(FAILURE_COUNTS_FOR / 5).await;
            assert!(!facts.read_from(WITHIN, none).await.is_answered());
            assert!(facts.is_failing());
        }
        tokio::time::advance(FAILURE_COUNTS_FOR / 5).await;
        assert!(facts.read_from(WITHIN, none).await.is_answered());
        assert!(!facts.is_failing());
        // A server that is asked and fails again fails again.
        tokio::time::advance(FRESH_FOR).await;
        assert!(!facts.read_from(WITHIN, fails).await.is_answered());
        assert!(facts.is_failing());
    }

    #[actix_web::rt::test]
    async fn a_server_that_hangs_is_asked_once_and_its_late_report_is_kept() {
        let facts = ServerFacts::default();
        let (report, late) = oneshot::channel::<Value>();
        let hangs = || async { late.await.map_err(|_| "dropped".into()) }.boxed();
        let first = text(&facts.read_from(WITHIN, hangs).await);
        assert_eq!(first["state"], "no_answer");
        assert_eq!(first["age_seconds"], Value::Null);
        let unasked = || -> Report { panic!("a refresh is under way") };
        let began = Instant::now();
        assert!(!facts.read_from(WITHIN, unasked).await.is_answered());
        assert!(began.elapsed() < WITHIN, "it was waited for twice");
        report.send(json!({ "version": 1 })).unwrap();
        let next = facts.read_from(WITHIN, unasked).await;
        assert_eq!(text(&next)["version"], 1);
    }

    #[actix_web::rt::test]
    async fn without_an_open_connection_there_are_no_facts() {
        let facts = ServerFacts::default();
        let none = || ready(Ok(Value::Null)).boxed();
        let answer = facts.read_from(WITHIN, none).await;
        assert_eq!(answer.value().map(|report| &report.facts), Some(&None));
    }
}
