//! Servers that replace each other under load, behind a balancer that learns late that a server is not ready.

#![expect(clippy::expect_used, clippy::panic, reason = "how a test fails")]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use headroom_measure::{Failure, Figures, HttpTarget, Meter, Pace, Request, Workload};
use nix::sys::signal::Signal;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::server::{Options, Server};
use crate::wait::{DEADLINE, wait_for_async};

/// Requests that are due each second.
const REQUESTS_PER_SECOND: f64 = 200.0;

/// The most requests at once.
const CALLERS: u32 = 64;

/// How long a request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Requests that the balancer still sends to a server after that is not ready.
const LATE_REQUESTS: u64 = 50;

/// A path whose answer comes from an actor.
const PATH: &str = "/api/performance/lazy-loader/status";

/// Sends all requests to one server, as users come: at a fixed rate.
struct Balancer {
    target: RwLock<Arc<HttpTarget>>,
    /// Requests since the last change of the target.
    sent: AtomicU64,
}

impl Balancer {
    fn new(server: &Server) -> Self {
        Self {
            target: RwLock::new(Arc::new(HttpTarget::new(server.address()))),
            sent: AtomicU64::new(0),
        }
    }

    async fn ask(&self) -> Result<(), Failure> {
        self.sent.fetch_add(1, SeqCst);
        self.target().ask(&Request::get(PATH)).await
    }

    fn target(&self) -> Arc<HttpTarget> {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&target)
    }

    fn send_to(&self, server: &Server) {
        let target = Arc::new(HttpTarget::new(server.address()));
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = target;
        self.sent.store(0, SeqCst);
    }

    async fn wait_until_sent(&self, requests: u64) {
        wait_for_async(DEADLINE, || async {
            let sent = self.sent.load(SeqCst);
            (sent >= requests).then_some(()).ok_or(sent)
        })
        .await;
    }
}

/// Has `restarts` servers with `options` replaced while requests arrive, and returns what came of the requests. Each
/// server is started before the one that it replaces is asked to stop. That one gets further requests after it has
/// ceased to be ready. Requests are repeated at no other server.
///
/// # Panics
/// When a server does not start or does not end with 0.
pub async fn replace_under_load(options: &Options, restarts: u32) -> Figures {
    let mut server = start(options).await;
    let balancer = Arc::new(Balancer::new(&server));
    let meter = Arc::new(Meter::default());
    let stop = CancellationToken::new();
    let load = tokio::spawn(load(
        Arc::clone(&balancer),
        Arc::clone(&meter),
        stop.clone(),
    ));
    for _ in 0..restarts {
        balancer.wait_until_sent(LATE_REQUESTS).await;
        let next = start(options).await;
        server.signal(Signal::SIGTERM);
        wait_for_async(DEADLINE, || async {
            let status = server.admin("/health/ready").await.status().as_u16();
            (status == 503).then_some(()).ok_or(status)
        })
        .await;
        let sent = balancer.sent.load(SeqCst);
        balancer.wait_until_sent(sent + LATE_REQUESTS).await;
        balancer.send_to(&next);
        let ended = spawn_blocking(move || server.wait_for_exit());
        let status = ended.await.expect("the server ends");
        assert_eq!(status.code(), Some(0), "{status}");
        server = next;
    }
    balancer.wait_until_sent(LATE_REQUESTS).await;
    stop.cancel();
    load.await.expect("the load ends");
    meter.figures()
}

async fn start(options: &Options) -> Server {
    let options = options.clone();
    let started = spawn_blocking(move || Server::start(options));
    started.await.unwrap_or_else(|error| panic!("{error}"))
}

async fn load(balancer: Arc<Balancer>, meter: Arc<Meter>, stop: CancellationToken) {
    let workload = Workload {
        callers: CALLERS,
        operations: u64::MAX,
        time: Duration::MAX,
        each: ANSWER_WITHIN,
        pace: Pace::Open {
            per_second: REQUESTS_PER_SECOND,
        },
    };
    let ask = move |_| {
        let balancer = Arc::clone(&balancer);
        async move { balancer.ask().await }
    };
    headroom_measure::run(workload, &meter, &stop, ask).await;
}
