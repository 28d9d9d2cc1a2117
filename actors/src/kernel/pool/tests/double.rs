//! A scripted driver, and a pool that uses it.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::{
    CheckoutError, CloseReason, Connect, ConnectError, ConnectErrorKind, Lease, Mode, PoolConfig,
    PoolHandle, PoolStatus, Status,
};
use crate::kernel::pressure::PressureReader;
use crate::kernel::testing::TestSystem;
use crate::kernel::{Backoff, Root, SupervisorSpec};

pub(super) const MB: u64 = 1 << 20;

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A connection to the [`FakeServer`].
#[derive(Debug, Default)]
pub(super) struct FakeConnection {
    pub(super) number: u32,
    pub(super) is_closed: AtomicBool,
    pub(super) is_blocked: AtomicBool,
    /// Something is left open on it.
    pub(super) is_open: AtomicBool,
    /// Users that joined others, and whether it has an exclusive one, where a test counts them.
    pub(super) users: AtomicU32,
    pub(super) is_exclusive: AtomicBool,
    /// Held by the user that the server works for.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// A scripted server, as its driver sees it.
pub(super) struct FakeServer {
    /// The time that a connect takes.
    pub(super) connect_takes: Mutex<Duration>,
    /// The time that a check or a reset takes.
    pub(super) maintenance_takes: Mutex<Duration>,
    /// The time that the server takes to let go of a connection.
    pub(super) retire_takes: Mutex<Duration>,
    /// Set when connects fail.
    pub(super) failure: Mutex<Option<ConnectErrorKind>>,
    /// Whether the next connect would use something else.
    pub(super) has_changed: AtomicBool,
    /// Whether checks and resets fail.
    pub(super) fails_checks: AtomicBool,
    pub(super) connects: AtomicU32,
    pub(super) checks: AtomicU32,
    pub(super) cleans: AtomicU32,
    /// The connections that the server has or may have, and the most that there were at once.
    pub(super) held: AtomicU32,
    pub(super) held_max: AtomicU32,
}

impl FakeServer {
    pub(super) fn new(connect_takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            connect_takes: Mutex::new(connect_takes),
            maintenance_takes: Mutex::new(ms(1)),
            retire_takes: Mutex::new(ms(0)),
            failure: Mutex::new(None),
            has_changed: AtomicBool::new(false),
            fails_checks: AtomicBool::new(false),
            connects: AtomicU32::new(0),
            checks: AtomicU32::new(0),
            cleans: AtomicU32::new(0),
            held: AtomicU32::new(0),
            held_max: AtomicU32::new(0),
        })
    }

    pub(super) fn set_failure(&self, kind: Option<ConnectErrorKind>) {
        *self.failure.lock().unwrap() = kind;
    }

    async fn maintain(&self) -> Result<(), ConnectError> {
        let takes = *self.maintenance_takes.lock().unwrap();
        let fails_checks = self.fails_checks.load(SeqCst);
        let error = ConnectError::new(ConnectErrorKind::Protocol, "it fails its checks");
        sleep(takes).await;
        if fails_checks { Err(error) } else { Ok(()) }
    }
}

impl Connect for FakeServer {
    type Connection = FakeConnection;

    async fn connect(&self) -> Result<FakeConnection, ConnectError> {
        let number = self.connects.fetch_add(1, SeqCst);
        let connect_takes = *self.connect_takes.lock().unwrap();
        let failure = *self.failure.lock().unwrap();
        sleep(connect_takes).await;
        match failure {
            Some(kind) => Err(ConnectError::new(kind, "the server is away")),
            None => {
                let held = self.held.fetch_add(1, SeqCst) + 1;
                self.held_max.fetch_max(held, SeqCst);
                Ok(FakeConnection {
                    number,
                    ..FakeConnection::default()
                })
            }
        }
    }

    async fn has_changed(&self) -> bool {
        self.has_changed.load(SeqCst)
    }

    async fn check(&self, _: &FakeConnection) -> Result<(), ConnectError> {
        self.checks.fetch_add(1, SeqCst);
        self.maintain().await
    }

    async fn retire(&self, connection: Arc<FakeConnection>) {
        drop(connection);
        let takes = *self.retire_takes.lock().unwrap();
        sleep(takes).await;
        self.held.fetch_sub(1, SeqCst);
    }

    fn is_closed(&self, connection: &FakeConnection) -> bool {
        connection.is_closed.load(SeqCst)
    }

    fn is_at_rest(&self, connection: &FakeConnection) -> bool {
        !connection.is_open.load(SeqCst)
    }

    fn is_blocked(&self, connection: &FakeConnection) -> bool {
        connection.is_blocked.load(SeqCst)
    }

    async fn clean(&self, _: &FakeConnection) -> Result<(), ConnectError> {
        self.cleans.fetch_add(1, SeqCst);
        self.maintain().await
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

/// A pool of one connection.
pub(super) fn single() -> PoolConfig {
    PoolConfig {
        connections_min: 1,
        connections_max: 1,
        ..config()
    }
}

/// A pool under a supervisor of its own.
pub(super) struct RunningPool {
    root: Option<Root>,
    pub(super) handle: PoolHandle<FakeServer>,
    pub(super) server: Arc<FakeServer>,
}

impl RunningPool {
    pub(super) async fn start(
        system: &TestSystem,
        config: PoolConfig,
        connect_takes: Duration,
    ) -> Self {
        Self::start_with_pressure(system, config, connect_takes, None).await
    }

    pub(super) async fn start_with_pressure(
        system: &TestSystem,
        config: PoolConfig,
        connect_takes: Duration,
        pressure: Option<PressureReader>,
    ) -> Self {
        let server = FakeServer::new(connect_takes);
        let handle = PoolHandle::new("test", config, Arc::clone(&server));
        let child = handle.child(pressure);
        let root = system.start(SupervisorSpec::new("root").child(child)).await;
        Self {
            root: Some(root),
            handle,
            server,
        }
    }

    #[track_caller]
    pub(super) fn check_out(
        &self,
        mode: Mode,
        within: Duration,
    ) -> impl Future<Output = Result<Lease<FakeConnection>, CheckoutError>> + Send + use<> {
        let (handle, holder) = (self.handle.clone(), Location::caller());
        async move { handle.check_out(mode, holder, within).await }
    }

    #[track_caller]
    pub(super) fn exclusive(&self) -> impl Future<Output = Lease<FakeConnection>> + Send + use<> {
        let lease = self.check_out(Mode::Exclusive, secs(10));
        async { lease.await.unwrap() }
    }

    #[track_caller]
    pub(super) fn shared(&self) -> impl Future<Output = Lease<FakeConnection>> + Send + use<> {
        let lease = self.check_out(Mode::Shared, secs(10));
        async { lease.await.unwrap() }
    }

    /// Opens `count` connections and leaves them idle.
    pub(super) async fn fill(&self, count: usize) {
        let leases = futures_util::future::join_all((0..count).map(|_| self.exclusive())).await;
        assert_eq!(leases.len(), count);
        drop(leases);
        self.wait_for(|status| status.idle as usize == count).await;
    }

    pub(super) async fn status(&self) -> PoolStatus {
        self.handle.ask(Status, secs(1)).await.unwrap()
    }

    /// Waits until the status meets the condition.
    pub(super) async fn wait_for(&self, is: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let deadline = Instant::now() + secs(3600 * 24);
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the status does not change: {status:?}"
            );
            sleep(ms(1)).await;
        }
    }

    pub(super) async fn stop(mut self) {
        self.root.take().unwrap().stop().await;
    }
}

pub(super) fn closed(reasons: &[(CloseReason, u64)]) -> BTreeMap<CloseReason, u64> {
    reasons.iter().copied().collect()
}
