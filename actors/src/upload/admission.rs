//! Who may upload now: places, memory, quotas and the disk.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use utoipa::ToSchema;

use super::blocking::blocking;
use super::caller::Caller;
use super::caller_quotas::{CallerQuotas, within};
use super::config::Config;
use super::content::FileName;
use super::error::UploadError;
use super::metrics;
use super::patience::Patience;
use super::pieces::{Shared, UPLOAD_BYTES};
use super::receive::Incoming;
use super::records::{Totals, Upload};
use super::scan::Scan;
use super::store::Store;
use crate::kernel::pressure::{Level, PressureReader};
use crate::kernel::{Buffers, Clock, Timestamp};

/// Time between two looks at the memory while an upload waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Uploads that wait for a place. It is below the calls that the actor takes.
const WAITING_MAX: usize = 1024;

/// The uploads in progress.
pub(super) struct Admission {
    pub(super) config: Arc<Config>,
    places: Arc<Semaphore>,
    /// Places for those that wait for one.
    waiting: Arc<Semaphore>,
    buffers: Arc<dyn Buffers>,
    pressure: PressureReader,
    scan: Option<Scan>,
    active: Mutex<ActiveUploads>,
    /// What is stored, as of the last look, with what this server has changed since.
    stored: Mutex<Totals>,
    pub(super) callers: CallerQuotas,
}

#[derive(Default)]
struct ActiveUploads {
    last: u64,
    uploads: BTreeMap<u64, Arc<Active>>,
}

/// One upload in progress.
struct Active {
    caller: Caller,
    since: Instant,
    announced: Option<u64>,
    /// What it may add, besides bytes that come without being announced.
    new: Totals,
    /// Whether what is stored includes this already.
    is_counted: AtomicBool,
    received: Arc<AtomicU64>,
    patience: Patience,
    file: Mutex<Option<String>>,
}

/// An upload in progress, for operators.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ActiveUpload {
    /// The network address that it comes from.
    pub uploaded_by: String,
    /// When it began.
    pub began_at: Timestamp,
    /// The size of the request, if the client announced it.
    pub announced_bytes: Option<u64>,
    /// Bytes of files that have arrived.
    pub received_bytes: u64,
    /// The average rate.
    pub bytes_per_second: f64,
    /// The name of the file that arrives now.
    pub file: Option<String>,
}

/// The right to upload, and the place that it takes. Its drop ends the upload.
pub struct Ticket {
    number: u64,
    admission: Arc<Admission>,
    active: Arc<Active>,
    store: Arc<Store>,
    _place: OwnedSemaphorePermit,
    /// Keeps the upload folder open.
    _lease: Box<dyn Send>,
}

impl Admission {
    pub(super) fn new(
        config: Arc<Config>,
        buffers: Arc<dyn Buffers>,
        pressure: PressureReader,
        scan: Option<Scan>,
    ) -> Self {
        Self {
            places: Arc::new(Semaphore::new(config.active_max as usize)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            callers: CallerQuotas::new(&config),
            config,
            buffers,
            pressure,
            scan,
            active: Mutex::default(),
            stored: Mutex::default(),
        }
    }

    /// Waits for a place and for memory. `used` is what the caller has stored, if that is bounded.
    pub(super) async fn admit(
        self: Arc<Self>,
        store: Arc<Store>,
        caller: Caller,
        announced: Option<u64>,
        used: Option<Totals>,
        lease: Box<dyn Send>,
    ) -> Result<Ticket, UploadError> {
        self.check_quotas(caller, 1, announced.unwrap_or_default(), used)?;
        self.check_disk(&store, announced.unwrap_or_default())
            .await?;
        let new = Totals {
            files: 1,
            bytes: announced.unwrap_or_default(),
        };
        self.enter(store, caller, announced, new, lease).await
    }

    /// Waits likewise, to go on with a file that what is stored includes. At most `more` bytes come that it does not include.
    pub(super) async fn readmit(
        self: Arc<Self>,
        store: Arc<Store>,
        caller: Caller,
        more: u64,
        used: Option<Totals>,
        lease: Box<dyn Send>,
    ) -> Result<Ticket, UploadError> {
        if more > 0 {
            self.check_quotas(caller, 0, more, used)?;
        }
        self.check_disk(&store, more).await?;
        let new = Totals {
            files: 0,
            bytes: more,
        };
        self.enter(store, caller, None, new, lease).await
    }

    async fn enter(
        self: Arc<Self>,
        store: Arc<Store>,
        caller: Caller,
        announced: Option<u64>,
        new: Totals,
        lease: Box<dyn Send>,
    ) -> Result<Ticket, UploadError> {
        let full = self.check_caller(&self.active(), caller);
        if full.is_err() && self.slowest(Some(caller)).is_none() {
            full?;
        }
        let deadline = Instant::now() + self.config.admission_wait;
        // Otherwise those that wait would keep those that are done from being stored.
        let Ok(_waiting) = Arc::clone(&self.waiting).try_acquire_owned() else {
            let active = self.config.active_max;
            return Err(UploadError::Full { active });
        };
        let place = self.take_place(deadline).await?;
        self.wait_for_memory(deadline).await?;
        let active = Arc::new(Active {
            caller,
            since: Instant::now(),
            announced,
            new,
            is_counted: AtomicBool::new(new == Totals::default()),
            received: Arc::default(),
            patience: Patience::default(),
            file: Mutex::default(),
        });
        let number = self.register(&active, deadline).await?;
        Ok(Ticket {
            number,
            admission: self,
            active,
            store,
            _place: place,
            _lease: lease,
        })
    }

    /// Waits for a place. If all are taken, the client that is slowest gives up its own.
    async fn take_place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, UploadError> {
        let mut place = pin!(Arc::clone(&self.places).acquire_owned());
        let mut is_made = false;
        loop {
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
            match timeout_at(look_again, &mut place).await {
                Ok(Ok(place)) => return Ok(place),
                Err(_) if look_again < deadline => is_made = is_made || self.end_slowest(None),
                Ok(Err(_)) | Err(_) => {
                    let active = self.config.active_max;
                    return Err(UploadError::Full { active });
                }
            }
        }
    }

    /// Adds an upload to those in progress. If its client has the most of them, the slowest one makes room.
    async fn register(&self, new: &Arc<Active>, deadline: Instant) -> Result<u64, UploadError> {
        let mut is_made = false;
        loop {
            let full = {
                let mut all = self.active();
                match self.check_caller(&all, new.caller) {
                    Ok(()) => {
                        all.last += 1;
                        let number = all.last;
                        all.uploads.insert(number, Arc::clone(new));
                        metrics::set_active(all.uploads.len());
                        return Ok(number);
                    }
                    Err(full) => full,
                }
            };
            is_made = is_made || self.end_slowest(Some(new.caller));
            if !is_made || Instant::now() + LOOK_AGAIN >= deadline {
                return Err(full);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The upload whose client is farthest behind, if one is too slow to keep its place.
    fn slowest(&self, of: Option<Caller>) -> Option<Arc<Active>> {
        let all = self.active();
        let all = all.uploads.values();
        let slow = all
            .filter(|active| of.is_none_or(|caller| active.caller == caller))
            .filter_map(|active| Some((active.patience.too_slow_since()?, active)));
        let slowest = slow.min_by_key(|(since, _)| *since);
        slowest.map(|(_, active)| Arc::clone(active))
    }

    /// Has that one end. Returns whether there is one.
    fn end_slowest(&self, of: Option<Caller>) -> bool {
        let slowest = self.slowest(of);
        if let Some(active) = &slowest {
            active.patience.end();
        }
        slowest.is_some()
    }

    /// New uploads wait while memory is short; those in progress go on.
    async fn wait_for_memory(&self, deadline: Instant) -> Result<(), UploadError> {
        loop {
            let refused = match self.buffers.reserve(UPLOAD_BYTES) {
                Ok(_) if self.pressure.reached() < Level::Critical => return Ok(()),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            if Instant::now() + LOOK_AGAIN >= deadline {
                let unavailable = crate::kernel::BudgetError::Unavailable;
                return Err(refused.unwrap_or(unavailable).into());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn check_caller(&self, all: &ActiveUploads, caller: Caller) -> Result<(), UploadError> {
        let of_caller = all
            .uploads
            .values()
            .filter(|active| active.caller == caller);
        let active = self.config.caller_active_max;
        match of_caller.count() < active as usize {
            true => Ok(()),
            false => Err(UploadError::CallerFull { active }),
        }
    }

    /// Whether `bytes` more are within the quotas.
    fn check_quotas(
        &self,
        caller: Caller,
        files: u64,
        bytes: u64,
        of_caller: Option<Totals>,
    ) -> Result<(), UploadError> {
        let stored = *self.stored();
        let with_arriving = |stored: Totals, is_meant: &dyn Fn(&Active) -> bool| {
            let all = self.active();
            let arriving = all
                .uploads
                .values()
                .filter(|active| !active.is_counted.load(Ordering::Relaxed) && is_meant(active));
            let new = stored.plus(Totals { files, bytes });
            arriving.fold(new, |sum, active| {
                let received = active.received.load(Ordering::Relaxed);
                Totals {
                    files: sum.files + active.new.files,
                    bytes: sum.bytes + received.max(active.new.bytes),
                }
            })
        };
        self.check_total(with_arriving(stored, &|_| true))?;
        let Some(of_caller) = of_caller else {
            return Ok(());
        };
        let total = with_arriving(of_caller, &|active| active.caller == caller);
        self.callers.check(total)
    }

    /// Whether all may have so much.
    fn check_total(&self, total: Totals) -> Result<(), UploadError> {
        within("files", total.files, self.config.files_max)?;
        within("bytes", total.bytes, self.config.bytes_max)
    }

    /// Counts what is about to be stored, if it is within the quotas.
    pub(super) fn count(&self, new: Totals) -> Result<(), UploadError> {
        let mut stored = self.stored();
        let total = stored.plus(new);
        self.check_total(total)?;
        *stored = total;
        Ok(())
    }

    /// Counts what is there.
    pub(super) fn keep(&self, new: Totals) {
        let mut stored = self.stored();
        *stored = stored.plus(new);
    }

    /// Counts no longer what was not stored, or removed.
    pub(super) fn uncount(&self, gone: Totals) {
        let mut stored = self.stored();
        *stored = stored.minus(gone);
    }

    /// Counts files that are stored, after all of them had arrived at `arrived`.
    pub(super) fn record_stored(&self, uploads: &[Upload], arrived: Instant) {
        let bytes = uploads.iter().map(|upload| upload.bytes).sum();
        metrics::record_stored(uploads.len() as u64, bytes, arrived.elapsed());
        if self.scan.is_some() {
            let unscanned = uploads.iter().filter(|upload| !upload.scanned);
            metrics::record_unscanned(unscanned.count() as u64);
        }
    }

    async fn check_disk(&self, store: &Arc<Store>, bytes: u64) -> Result<(), UploadError> {
        let reading = Arc::clone(store);
        let free = blocking(move || Ok(reading.free_bytes()?)).await?;
        let floor = self.config.disk_free_min;
        match free < floor.saturating_add(bytes) {
            true => Err(UploadError::DiskFull { free, floor }),
            false => Ok(()),
        }
    }

    pub(super) fn stored(&self) -> MutexGuard<'_, Totals> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> MutexGuard<'_, ActiveUploads> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The uploads in progress, the oldest first.
    pub(super) fn list(&self) -> Vec<ActiveUpload> {
        let clock = Clock::now();
        let active = self.active();
        let list = active.uploads.values().map(|active| {
            let received_bytes = active.received.load(Ordering::Relaxed);
            let seconds = active.since.elapsed().as_secs_f64().max(1e-3);
            ActiveUpload {
                uploaded_by: active.caller.to_string(),
                began_at: clock.time_of(active.since),
                announced_bytes: active.announced,
                received_bytes,
                bytes_per_second: received_bytes as f64 / seconds,
                file: active.file().clone(),
            }
        });
        list.collect()
    }
}

impl Active {
    fn file(&self) -> MutexGuard<'_, Option<String>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Begins a file: what its name and its declared media type say decides its kind.
    ///
    /// # Errors
    /// The name or the kind is refused.
    pub fn begin(&self, name: &str, media_type: Option<&str>) -> Result<Incoming, UploadError> {
        let name = FileName::parse(name)?;
        let (kind, bytes_max) = self.admission.config.kind(&name, media_type)?;
        self.set_file(name.as_str());
        Ok(Incoming::begin(self.shared(), name, kind, bytes_max))
    }

    /// What the work on files of this upload uses.
    pub(super) fn shared(&self) -> Shared {
        let config = &self.admission.config;
        Shared {
            store: Arc::clone(&self.store),
            buffers: Arc::clone(&self.admission.buffers),
            pressure: self.admission.pressure.clone(),
            limits: config.limits.clone(),
            disk_free_min: Some(config.disk_free_min),
            scan: self.admission.scan.clone(),
            caller: self.active.caller,
            received: Arc::clone(&self.active.received),
        }
    }

    /// Says which file arrives now.
    pub(super) fn set_file(&self, name: &str) {
        *self.active.file() = Some(name.to_owned());
    }

    /// What the upload waits for its client with.
    pub fn patience(&self) -> Patience {
        self.active.patience.clone()
    }

    /// Says that what is stored includes now what the upload adds.
    pub(super) fn set_counted(&self) {
        self.active.is_counted.store(true, Ordering::Relaxed);
    }

    pub(super) fn caller(&self) -> Caller {
        self.active.caller
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The bytes of files that have arrived.
    fn received_bytes(&self) -> u64 {
        self.active.received.load(Ordering::Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut active = self.admission.active();
        active.uploads.remove(&self.number);
        metrics::set_active(active.uploads.len());
        metrics::record_received(self.received_bytes());
    }
}
