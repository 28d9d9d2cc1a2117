//! A scripted resource for tests. It checks the loader: a load without an unload before it, and a load
//! without a reservation, fail the test.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::kernel::{
    Load, LoadContext, LoadError, LoadErrorKind, Loaded, ReservationEntry, Resource,
};

/// What one load does.
#[derive(Clone)]
pub(crate) enum Step {
    Succeed,
    Fail(LoadError),
    Panic,
    Hang,
}

/// A resource whose loads follow a script. It records what the loader calls.
#[derive(Clone)]
pub(crate) struct Scripted {
    inner: Arc<Inner>,
}

struct Inner {
    estimate: u64,
    bytes: u64,
    load_time: Duration,
    unload_time: Duration,
    ttl: Option<Duration>,
    pinned: bool,
    log: Log,
    script: Mutex<VecDeque<Step>>,
    /// Whether a load has begun since the last unload.
    may_be_loaded: Mutex<bool>,
    death: Mutex<Option<oneshot::Sender<LoadError>>>,
    /// Its reservation, which must last until it is unloaded.
    entry: Mutex<Option<Arc<dyn ReservationEntry>>>,
    name: Mutex<String>,
    loads: AtomicU64,
}

/// The calls, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

impl Scripted {
    /// A resource of 10 bytes that loads in 100 ms, unloads in 10 ms, and has no TTL.
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                estimate: 10,
                bytes: 10,
                load_time: Duration::from_millis(100),
                unload_time: Duration::from_millis(10),
                ttl: None,
                pinned: false,
                log: Log::default(),
                script: Mutex::default(),
                may_be_loaded: Mutex::default(),
                death: Mutex::default(),
                entry: Mutex::default(),
                name: Mutex::default(),
                loads: AtomicU64::new(0),
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::get_mut(&mut self.inner).unwrap());
        self
    }

    pub(crate) fn bytes(self, bytes: u64) -> Self {
        self.with(|inner| (inner.bytes, inner.estimate) = (bytes, bytes))
    }

    pub(crate) fn measured(self, bytes: u64) -> Self {
        self.with(|inner| inner.bytes = bytes)
    }

    pub(crate) fn load_time(self, time: Duration) -> Self {
        self.with(|inner| inner.load_time = time)
    }

    pub(crate) fn unload_time(self, time: Duration) -> Self {
        self.with(|inner| inner.unload_time = time)
    }

    pub(crate) fn ttl(self, ttl: Duration) -> Self {
        self.with(|inner| inner.ttl = Some(ttl))
    }

    pub(crate) fn pinned(self) -> Self {
        self.with(|inner| inner.pinned = true)
    }

    pub(crate) fn log(self, log: &Log) -> Self {
        self.with(|inner| inner.log = Arc::clone(log))
    }

    /// Sets what the next loads do. The loads after these succeed.
    pub(crate) fn script(self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.inner.script.lock().unwrap().extend(steps);
        self
    }

    pub(crate) fn resource(&self, name: &str, depends_on: &[&str]) -> Resource {
        name.clone_into(&mut self.inner.name.lock().unwrap());
        Resource {
            name: name.to_owned(),
            kind: "scripted",
            depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect(),
            ttl: self.inner.ttl,
            pinned: self.inner.pinned,
            estimated_bytes: self.inner.estimate,
            load: Arc::new(self.clone()),
        }
    }

    /// Loads started.
    pub(crate) fn loads(&self) -> u64 {
        self.inner.loads.load(SeqCst)
    }

    pub(crate) fn may_be_loaded(&self) -> bool {
        *self.inner.may_be_loaded.lock().unwrap()
    }

    pub(crate) fn die(&self, message: &str) {
        let death = self.inner.death.lock().unwrap().take();
        death
            .expect("it is not loaded")
            .send(unavailable(message))
            .expect("the loader does not watch for its death");
    }
}

impl Inner {
    fn record(&self, call: &str) {
        let name = self.name.lock().unwrap();
        self.log.lock().unwrap().push(format!("{call} {name}"));
    }
}

impl Load for Scripted {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let inner = Arc::clone(&self.inner);
        inner.loads.fetch_add(1, SeqCst);
        inner.record("load");
        let was_loaded = std::mem::replace(&mut *inner.may_be_loaded.lock().unwrap(), true);
        if was_loaded {
            report_violation("load without unload before it");
        }
        if context.entry.reserved() == 0 {
            report_violation("load without a reservation");
        }
        *inner.entry.lock().unwrap() = Some(context.entry);
        let step = inner.script.lock().unwrap().pop_front();
        async move {
            sleep(inner.load_time).await;
            match step.unwrap_or(Step::Succeed) {
                Step::Succeed => {}
                Step::Fail(error) => return Err(error),
                Step::Panic => panic!("scripted panic"),
                Step::Hang => std::future::pending().await,
            }
            inner.record("loaded");
            let (death, died) = oneshot::channel();
            *inner.death.lock().unwrap() = Some(death);
            Ok(Loaded {
                bytes: inner.bytes,
                died: async move {
                    match died.await {
                        Ok(error) => error,
                        Err(_) => std::future::pending().await,
                    }
                }
                .boxed(),
            })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        let inner = Arc::clone(&self.inner);
        async move {
            inner.record("unload");
            sleep(inner.unload_time).await;
            inner.record("unloaded");
            let entry = inner.entry.lock().unwrap().take();
            if entry.is_some_and(|entry| entry.reserved() == 0) {
                report_violation("the reservation ended before the unload");
            }
            *inner.may_be_loaded.lock().unwrap() = false;
            *inner.death.lock().unwrap() = None;
        }
        .boxed()
    }
}

pub(crate) fn unavailable(message: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Unavailable, message)
}

thread_local! {
    static VIOLATIONS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Records a violation. A panic would not fail the test, because the loader catches it.
fn report_violation(text: &str) {
    VIOLATIONS.with(|all| all.borrow_mut().push(text.to_owned()));
}

/// The violations since the last call.
pub(crate) fn take_violations() -> Vec<String> {
    VIOLATIONS.with(|all| std::mem::take(&mut *all.borrow_mut()))
}
