//! A server whose connections do as the test says, and a pool of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, sleep};

use super::super::{
    CheckoutError, CloseReason, Connect, ConnectError, ConnectErrorKind, Lease, Mode, Pool,
    PoolConfig, PoolStatus, Status, check_out,
};
use crate::kernel::pressure::PressureReader;
use crate::kernel::testing::TestSystem;
use crate::kernel::{Backoff, Handle, Root, SupervisorSpec};

pub(super) const MB: u64 = 1 << 20;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// One connection to the scripted server.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) dead: AtomicBool,
    pub(super) held_up: AtomicBool,
}

/// The scripted server.
pub(super) struct Server {
    pub(super) connect_takes: Mutex<Duration>,
    pub(super) tending_takes: Mutex<Duration>,
    pub(super) away: Mutex<Option<ConnectErrorKind>>,
    pub(super) unwell: AtomicBool,
    pub(super) connects: AtomicU32,
    pub(super) checks: AtomicU32,
    pub(super) cleans: AtomicU32,
}

impl Server {
    pub(super) fn new(connect_takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            connect_takes: Mutex::new(connect_takes),
            tending_takes: Mutex::new(ms(1)),
            away: Mutex::new(None),
            unwell: AtomicBool::new(false),
            connects: AtomicU32::new(0),
            checks: AtomicU32::new(0),
            cleans: AtomicU32::new(0),
        })
    }

    pub(super) fn goes_away(&self, kind: Option<ConnectErrorKind>) {
        *self.away.lock().unwrap() = kind;
    }

    fn well(&self) -> BoxFuture<'static, Result<(), ConnectError>> {
        let takes = *self.tending_takes.lock().unwrap();
        let unwell = self.unwell.load(SeqCst);
        let error = ConnectError::new(ConnectErrorKind::Protocol, "unwell");
        async move {
            sleep(takes).await;
            if unwell { Err(error) } else { Ok(()) }
        }
        .boxed()
    }
}

impl Connect for Server {
    type Connection = Line;

    fn connect(&self) -> BoxFuture<'static, Result<Line, ConnectError>> {
        let number = self.connects.fetch_add(1, SeqCst);
        let takes = *self.connect_takes.lock().unwrap();
        let away = *self.away.lock().unwrap();
        async move {
            sleep(takes).await;
            match away {
                Some(kind) => Err(ConnectError::new(kind, "the server is away")),
                None => Ok(Line {
                    number,
                    dead: AtomicBool::new(false),
                    held_up: AtomicBool::new(false),
                }),
            }
        }
        .boxed()
    }

    fn check(&self, _: Arc<Line>) -> BoxFuture<'static, Result<(), ConnectError>> {
        self.checks.fetch_add(1, SeqCst);
        self.well()
    }

    fn is_closed(&self, connection: &Line) -> bool {
        connection.dead.load(SeqCst)
    }

    fn is_blocked(&self, connection: &Line) -> bool {
        connection.held_up.load(SeqCst)
    }

    fn clean(&self, _: Arc<Line>) -> BoxFuture<'static, Result<(), ConnectError>> {
        self.cleans.fetch_add(1, SeqCst);
        self.well()
    }

    fn bytes_per_connection(&self) -> u64 {
        MB
    }
}

pub(super) fn config() -> PoolConfig {
    PoolConfig {
        circuit_failures: 3,
        circuit_backoff: Backoff::try_new(ms(100), secs(1), secs(30)).unwrap(),
        ..PoolConfig::default()
    }
}

/// One connection at most.
pub(super) fn single() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 1,
        ..config()
    }
}

/// A running pool.
pub(super) struct RunningPool {
    root: Option<Root>,
    pub(super) pool: Handle<Pool<Server>>,
    pub(super) server: Arc<Server>,
}

impl RunningPool {
    pub(super) async fn open(system: &TestSystem, config: PoolConfig, takes: Duration) -> Self {
        Self::open_under(system, config, takes, None).await
    }

    pub(super) async fn open_under(
        system: &TestSystem,
        config: PoolConfig,
        takes: Duration,
        pressure: Option<PressureReader>,
    ) -> Self {
        let server = Server::new(takes);
        let pool = Pool::handle("running", &config);
        let child = Pool::child(&pool, config, Arc::clone(&server), pressure);
        let root = system.start(SupervisorSpec::new("yard").child(child)).await;
        Self {
            root: Some(root),
            pool,
            server,
        }
    }

    #[track_caller]
    pub(super) fn take(
        &self,
        mode: Mode,
        within: Duration,
    ) -> impl Future<Output = Result<Lease<Line>, CheckoutError>> + Send + use<> {
        check_out(&self.pool, mode, within)
    }

    #[track_caller]
    pub(super) fn own(&self) -> impl Future<Output = Lease<Line>> + Send + use<> {
        let lease = self.take(Mode::Exclusive, secs(10));
        async { lease.await.unwrap() }
    }

    #[track_caller]
    pub(super) fn share(&self) -> impl Future<Output = Lease<Line>> + Send + use<> {
        let lease = self.take(Mode::Shared, secs(10));
        async { lease.await.unwrap() }
    }

    /// `count` connections, idle.
    pub(super) async fn fill(&self, count: usize) {
        let leases = futures_util::future::join_all((0..count).map(|_| self.own())).await;
        assert_eq!(leases.len(), count);
        drop(leases);
        self.until(|status| status.idle as usize == count).await;
    }

    pub(super) async fn status(&self) -> PoolStatus {
        self.pool.ask(Status, secs(1)).await.unwrap()
    }

    /// Waits until the pool is as said.
    pub(super) async fn until(&self, is: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let deadline = Instant::now() + secs(3600 * 24);
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "it never came to be: {status:?}");
            sleep(ms(1)).await;
        }
    }

    pub(super) async fn close(mut self) {
        self.root.take().unwrap().stop().await;
    }
}

pub(super) fn closed(reasons: &[(CloseReason, u64)]) -> BTreeMap<CloseReason, u64> {
    reasons.iter().copied().collect()
}
