//! How the main HTTP server stops, and how much time each part of a stop has.
//!
//! Balancers notice late that a server is not ready, and send requests meanwhile. So the server goes on accepting for
//! `server.drain_delay`, while each answer announces the end of its connection. Then it closes the listener, answers all
//! requests of accepted connections, and closes idle connections last, or when others wait for their places.

use std::time::Duration;

use actix_web::dev::ServerHandle;
use headroom_actors::kernel::Tree;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::listener::Listener;
use crate::connection::Drain;
use crate::settings::sections::ServerSettings;
use crate::signals::Signal;
use crate::telemetry::ALWAYS_KEPT;

/// The time between two looks at the number of connections.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long no connection must be open before the end. One that was accepted is counted when its thread takes it over.
const NONE_OPEN_FOR: Duration = Duration::from_millis(100);

/// How long the worker threads may take to drop their connections.
const CUT_OFF_WITHIN: Duration = Duration::from_millis(500);

/// How long actors that were killed may take to end, with their processes.
const KILLED_WITHIN: Duration = Duration::from_millis(500);

/// The share of the time after the drain delay that the actors have, if requests in flight use up all of theirs.
const ACTORS_SHARE: u32 = 3;

/// The share of the actors' time for which the loader waits for resources in use.
const LOADER_SHARE: u32 = 3;

/// The longest time for which the loader waits for resources in use.
const LOADER_WAIT_MAX: Duration = Duration::from_secs(5);

/// The deadlines of one stop.
pub(super) struct Deadlines {
    /// The end of the requests in flight.
    pub(super) requests: Instant,
    /// The end of the whole stop.
    pub(super) all: Instant,
}

impl Deadlines {
    /// The deadlines of a stop that begins now.
    pub(super) fn new(settings: &ServerSettings) -> Self {
        let (begun, all) = (Instant::now(), settings.shutdown_deadline.0);
        let requests = all.saturating_sub(actors_time(settings));
        Self {
            requests: begun + requests,
            all: begun + all,
        }
    }
}

/// How long the loader waits for resources in use before it unloads them.
pub(super) fn loader_wait(settings: &ServerSettings) -> Duration {
    (actors_time(settings) / LOADER_SHARE).min(LOADER_WAIT_MAX)
}

fn actors_time(settings: &ServerSettings) -> Duration {
    let after_delay = settings
        .shutdown_deadline
        .0
        .saturating_sub(settings.drain_delay.0);
    after_delay / ACTORS_SHARE
}

/// Waits for another request to stop, for `delay` at most.
pub(super) async fn delay(delay: Duration, signals: &mut mpsc::Receiver<Signal>) {
    let asked_again = async {
        while let Some(signal) = signals.recv().await {
            match signal {
                Signal::Stop => {
                    tracing::info!(target: ALWAYS_KEPT, "asked to stop again: the drain delay ends");
                    break;
                }
                Signal::Reload => {}
            }
        }
    };
    // Either way, the delay is over.
    timeout(delay, asked_again).await.ok();
}

/// Ends all connections of `server`, each after its last answer.
pub(super) async fn end_connections(server: &ServerHandle, listener: Listener, drain: &Drain) {
    let end_idle = async {
        until(Duration::ZERO, || drain.busy() == 0).await;
        drain.close_idle();
    };
    // Connections in the listener's queue may wait for the places of idle ones, and requests in flight may take long.
    let close_listener = listener.close(server, || drain.close_idle());
    tokio::join!(close_listener, end_idle);
    until(NONE_OPEN_FOR, || drain.open() == 0).await;
}

/// Waits until the connections of a server that has stopped are dropped, so that the log has their requests. If they are not,
/// a worker hangs, and nothing can end them but the process's exit.
pub(super) async fn until_cut_off(drain: &Drain) {
    let dropped = until(Duration::ZERO, || drain.open() == 0);
    timeout(CUT_OFF_WITHIN, dropped).await.ok();
}

/// Waits until no actor of `tree` runs any more. If they do not end, nothing can end them but the process's exit.
pub(super) async fn until_ended(tree: &Tree) {
    let ended = until(Duration::ZERO, || tree.alive().is_empty());
    timeout(KILLED_WITHIN, ended).await.ok();
}

/// Waits until `is_true` has been true at each look for `time`.
async fn until(time: Duration, is_true: impl Fn() -> bool) {
    let mut since: Option<Instant> = None;
    loop {
        let is_true = is_true();
        since = is_true.then(|| since.unwrap_or_else(Instant::now));
        if since.is_some_and(|since| since.elapsed() >= time) {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::values::DurationOrZero;
    use crate::settings::{Environment, Sources, load};

    #[test]
    fn the_parts_of_a_stop_share_its_deadline() {
        let loaded = load(&Sources::default(), &Environment::new()).unwrap();
        let mut settings = loaded.settings.server;
        settings.shutdown_deadline = DurationOrZero(Duration::from_secs(25));
        settings.drain_delay = DurationOrZero(Duration::from_secs(4));
        let deadlines = Deadlines::new(&settings);
        assert_eq!(deadlines.all - deadlines.requests, Duration::from_secs(7));
        assert!(loader_wait(&settings) < Duration::from_secs(3));
        settings.shutdown_deadline = DurationOrZero(Duration::ZERO);
        let deadlines = Deadlines::new(&settings);
        assert_eq!(deadlines.all, deadlines.requests);
        assert_eq!(loader_wait(&settings), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_counts_once_it_has_held_without_a_break() {
        let begun = Instant::now();
        let holds = || begun.elapsed() != Duration::from_millis(50);
        until(Duration::from_millis(100), holds).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(155));
        until(Duration::ZERO, || true).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(155));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_to_stop_ends_the_delay_and_a_reload_does_not() {
        let (sender, mut signals) = mpsc::channel(2);
        let begun = Instant::now();
        sender.send(Signal::Reload).await.unwrap();
        delay(Duration::from_secs(5), &mut signals).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        sender.send(Signal::Stop).await.unwrap();
        delay(Duration::from_secs(5), &mut signals).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
