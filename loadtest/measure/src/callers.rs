//! The callers of a workload.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::meter::{Failure, Meter};
use super::workload::{Pace, Workload};

/// Lets callers do `operation`, as `workload` says, and counts it in `meter`. Each operation gets its
/// number, from 0. Ends when no further operation is to begin and all have ended, or at once when `stop` is
/// cancelled: operations under way are dropped then, and not counted.
///
/// The callers are tasks of the present tokio runtime.
pub async fn run<F, Fut>(
    workload: Workload,
    meter: &Arc<Meter>,
    stop: &CancellationToken,
    operation: F,
) where
    F: Fn(u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let begin = Instant::now();
    let shared = Arc::new(Shared {
        workload,
        meter: Arc::clone(meter),
        operation,
        next: AtomicU64::new(0),
        begin,
        // A workload without a bound has one far away.
        end: begin + workload.time.min(TIME_MAX),
    });
    let mut callers = JoinSet::new();
    for _ in 0..workload.callers {
        callers.spawn(call(Arc::clone(&shared)));
    }
    let all_done = async { while callers.join_next().await.is_some() {} };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = all_done => {}
    }
    callers.shutdown().await;
    meter.add_time(begin.elapsed());
}

/// How late a timer of the runtime may be, because it counts milliseconds. Such a delay comes from the
/// measurement and not from what is measured.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// The longest time of a workload.
const TIME_MAX: Duration = Duration::from_secs(60 * 60 * 24);

/// What all callers of a workload share.
struct Shared<F> {
    workload: Workload,
    meter: Arc<Meter>,
    operation: F,
    /// The number of the next operation.
    next: AtomicU64,
    begin: Instant,
    end: Instant,
}

async fn call<F, Fut>(shared: Arc<Shared<F>>)
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let Workload {
        operations, each, ..
    } = shared.workload;
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= operations {
            return;
        }
        let Some(began) = shared.wait_for_turn(number).await else {
            return;
        };
        // A panic ends this operation alone. What the operation has shared is its own affair.
        let operation = AssertUnwindSafe(async { (shared.operation)(number).await });
        let result = match timeout(each, operation.catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::new("panic", "the operation panicked")),
            Err(_) => Err(Failure::new(
                "timeout",
                "no answer within the time of one operation",
            )),
        };
        let failed_at_once = result.is_err();
        shared.meter.count(began.elapsed(), result);
        if failed_at_once {
            // What refuses at once must not keep this task from yielding.
            tokio::task::yield_now().await;
        }
    }
}

impl<F> Shared<F> {
    /// Waits until the operation of this number is to begin. Returns since when its latency counts; `None`
    /// when the time is over.
    async fn wait_for_turn(&self, number: u64) -> Option<Instant> {
        let mut now = Instant::now();
        let due = match self.workload.pace {
            Pace::Closed => now,
            Pace::Open { per_second } => {
                let after = Duration::try_from_secs_f64(number as f64 / per_second);
                self.begin + after.unwrap_or(TIME_MAX).min(TIME_MAX)
            }
        };
        if due >= self.end {
            return None;
        }
        if due > now {
            sleep_until(due).await;
            now = Instant::now();
            if now <= due + TIMER_LATE_MAX {
                return Some(now);
            }
        }
        if due < now {
            self.meter.count_late();
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn workload(callers: u32, operations: u64, pace: Pace) -> Workload {
        Workload {
            callers,
            operations,
            time: Duration::from_secs(60),
            each: Duration::from_secs(5),
            pace,
        }
    }

    async fn pause(ms: u32) -> Result<(), Failure> {
        sleep(ms * MS).await;
        Ok(())
    }

    async fn measure<Fut>(
        workload: Workload,
        operation: impl Fn(u64) -> Fut + Send + Sync + 'static,
    ) -> Meter
    where
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let meter = Arc::new(Meter::default());
        run(workload, &meter, &CancellationToken::new(), operation).await;
        Arc::into_inner(meter).expect("no caller is left")
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_has_as_many_operations_under_way_as_callers() {
        let closed = workload(4, 100, Pace::Closed);
        let meter = measure(closed, |_| pause(10)).await;
        let figures = meter.figures();
        assert_eq!((figures.succeeded, figures.started_late), (100, 0));
        // 25 operations of each caller, one after the other.
        assert!((0.25..0.3).contains(&figures.took_seconds), "{figures:?}");
        let latency = figures.latency.unwrap();
        assert!((10.0..12.0).contains(&latency.p50_ms), "{figures:?}");
    }

    /// A pause of the server that holds up all callers is in the latency of everything that was due in it.
    #[tokio::test(start_paused = true)]
    async fn an_open_loop_counts_the_wait_of_operations_that_begin_late() {
        let open = workload(2, 200, Pace::Open { per_second: 100.0 });
        // Two operations take a second, all others no time.
        let pause_once = |number| async move {
            if (100..102).contains(&number) {
                sleep(1000 * MS).await;
            }
            Ok(())
        };
        let figures = measure(open, pause_once).await.figures();
        assert_eq!(figures.succeeded, 200);
        // About 98 more were due meanwhile, and waited half a second on average.
        assert!((95..=99).contains(&figures.started_late), "{figures:?}");
        let latency = figures.latency.unwrap();
        assert!(latency.p50_ms < 100.0, "{latency:?}");
        assert!((700.0..900.0).contains(&latency.p90_ms), "{latency:?}");
        // A closed loop tells nothing of the pause but the two operations.
        let closed = workload(2, 200, Pace::Closed);
        let latency = measure(closed, pause_once).await.figures().latency.unwrap();
        assert!(latency.p90_ms < 10.0, "{latency:?}");
    }

    /// A pause of the whole process holds up the timers, too.
    #[tokio::test(start_paused = true)]
    async fn an_open_loop_counts_the_delay_of_operations_whose_timers_were_late() {
        // Every operation has a caller of its own, which waits until it is due.
        let open = workload(200, 200, Pace::Open { per_second: 100.0 });
        let meter = measure(open, |number| async move {
            if number == 100 {
                tokio::time::advance(1000 * MS).await;
            }
            Ok(())
        })
        .await;
        let figures = meter.figures();
        assert_eq!(figures.succeeded, 200);
        assert!((97..=99).contains(&figures.started_late), "{figures:?}");
        let latency = figures.latency.unwrap();
        assert!(latency.p50_ms < 10.0, "{latency:?}");
        assert!((700.0..900.0).contains(&latency.p90_ms), "{latency:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_operation_begins_after_the_time() {
        let mut closed = workload(3, u64::MAX, Pace::Closed);
        closed.time = 100 * MS;
        let figures = measure(closed, |_| pause(30)).await.figures();
        // At 0, 30, 60 and 90 ms, give or take the timer's millisecond.
        assert!((9..=12).contains(&figures.succeeded), "{figures:?}");
        assert!(figures.took_seconds < 0.14, "{figures:?}");
        let mut open = workload(3, u64::MAX, Pace::Open { per_second: 100.0 });
        open.time = 100 * MS;
        let figures = measure(open, |_| async { Ok(()) }).await.figures();
        assert_eq!(figures.succeeded, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_takes_too_long_or_panics_has_failed_and_its_caller_goes_on() {
        let mut closed = workload(1, 5, Pace::Closed);
        closed.each = 50 * MS;
        let meter = measure(closed, |number| {
            // Before and in its future.
            assert_ne!(number, 1, "as planned");
            async move {
                assert_ne!(number, 2, "as planned");
                if number == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        })
        .await;
        let figures = meter.figures();
        let errors = &figures.errors;
        assert_eq!((errors["timeout"], errors["panic"]), (1, 2));
        assert_eq!((figures.succeeded, figures.failed), (2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_drops_what_is_under_way_and_keeps_what_was_counted() {
        let meter = Arc::new(Meter::default());
        let stop = CancellationToken::new();
        let held = Arc::new(());
        let in_operation = Arc::clone(&held);
        let began = Instant::now();
        let closed = workload(8, u64::MAX, Pace::Closed);
        let running = run(closed, &meter, &stop, move |number| {
            let held = Arc::clone(&in_operation);
            async move {
                if number >= 8 {
                    std::future::pending::<()>().await;
                }
                drop(held);
                pause(10).await
            }
        });
        let stopping = async {
            sleep(100 * MS).await;
            stop.cancel();
        };
        tokio::join!(running, stopping);
        assert!(began.elapsed() < 110 * MS);
        assert_eq!(meter.figures().succeeded, 8);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
