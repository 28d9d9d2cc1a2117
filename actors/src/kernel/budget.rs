//! The traits through which modules use the memory budget, and the reservations that it grants.
//!
//! The memory module keeps the budget. Other modules know only these traits, so no module depends on
//! the memory module.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// The kind of private servers in reservations.
pub const PRIVATE_SERVER: &str = "private_server";

/// Asks for memory before it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationRequest {
    /// The name of the resource or the private server that needs the memory.
    pub name: String,
    /// Its kind, for metrics: that of the resource, or [`PRIVATE_SERVER`].
    pub kind: &'static str,
    /// The estimated peak, in bytes.
    pub bytes: u64,
    /// Whether the reservation may use the headroom. A load does so only if evicting everything idle
    /// would not be enough. A private server does so at once, since its start evicts nothing.
    pub use_headroom: bool,
}

/// Why memory was not reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The budget has too few free bytes now.
    #[error("{need} bytes are needed, {free} of {budget} are free")]
    Short {
        /// Bytes requested.
        need: u64,
        /// Bytes that are neither used nor reserved.
        free: u64,
        /// The whole budget.
        budget: u64,
    },
    /// The memory supervisor did not answer.
    #[error("the memory supervisor did not answer")]
    Unavailable,
}

/// The part of the budget that loads may use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeMemory {
    /// Bytes that a reservation may have.
    pub free: u64,
    /// The whole budget.
    pub budget: u64,
}

/// The memory budget. It grants a reservation if it fits beside everything else, where each entry
/// counts with the larger of its reservation and its usage.
pub trait Budget: Send + Sync + 'static {
    /// Reserves memory. Evicts nothing.
    ///
    /// # Errors
    /// See [`BudgetError`].
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>>;

    /// The most bytes that all reservations together can hold: the part of the budget that is free
    /// when only the server itself uses memory. `None` while that is unknown.
    fn max_reservable(&self) -> Option<u64> {
        None
    }

    /// What a reservation may have, by the last reading of memory. Reserves nothing. `None` while that
    /// is unknown.
    fn free(&self, _use_headroom: bool) -> Option<FreeMemory> {
        None
    }
}

/// One reservation's entry in the ledger.
pub trait ReservationEntry: Send + Sync {
    /// Counts the process `pid` under this entry. Where its real usage is larger than the reserved
    /// bytes, the usage counts.
    fn attach(&self, pid: i32);

    /// Stops counting the process `pid`.
    fn detach(&self, pid: i32);

    /// Replaces the reserved bytes, usually by what was measured.
    fn set_reserved(&self, bytes: u64);

    /// Bytes reserved now.
    fn reserved(&self) -> u64;

    /// Bytes that the attached processes used at the last measurement; 0 before the first one.
    fn measured(&self) -> u64;

    /// The highest measured value.
    fn peak(&self) -> u64;

    /// Bytes that the attached process `pid` may use before its usage alone exhausts memory. Memory
    /// of idle resources counts as free, because they can be evicted. `u64::MAX` where nothing is
    /// measured.
    fn usage_max(&self, _pid: i32) -> u64 {
        u64::MAX
    }

    /// Sets the counter of users. While it is 0, the entry's memory can be evicted. Without a
    /// counter the entry counts as always in use.
    fn count_uses(&self, _uses: Option<Arc<AtomicUsize>>) {}

    /// Ends the reservation. [`Reservation`] calls this once, when it is dropped.
    fn release(&self);
}

/// An account for buffers of the server process of one kind, such as bodies of requests. It answers
/// at once, because its callers are serving a request.
pub trait Buffers: Send + Sync + 'static {
    /// Reserves `bytes`, by the last reading of memory.
    ///
    /// # Errors
    /// [`BudgetError::Short`].
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError>;

    /// Resolves after a new reading of memory, or at once if the last one is fresh.
    fn read_memory(&self) -> BoxFuture<'static, ()>;

    /// Counts `bytes` of the reserved memory as in use. [`BufferReservation::fill`] calls this.
    fn fill(&self, bytes: u64);

    /// Returns `reserved` bytes, of which `filled` were in use. [`BufferReservation`] calls this when it
    /// shrinks or is dropped.
    fn release(&self, reserved: u64, filled: u64);
}

impl dyn Buffers {
    /// Reserves `bytes` that are used from now on.
    ///
    /// # Errors
    /// [`BudgetError::Short`].
    pub fn take(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        let mut reservation = self.reserve(bytes)?;
        reservation.fill(bytes);
        Ok(reservation)
    }

    /// Reserves `bytes`. After a refusal it waits for a new reading of memory and tries once more.
    ///
    /// # Errors
    /// [`BudgetError::Short`].
    pub async fn reserve_after_reading(
        &self,
        bytes: u64,
    ) -> Result<BufferReservation, BudgetError> {
        if let Ok(reservation) = self.reserve(bytes) {
            return Ok(reservation);
        }
        self.read_memory().await;
        self.reserve(bytes)
    }
}

/// Bytes reserved for a buffer. Dropping it ends the reservation.
pub struct BufferReservation {
    account: Arc<dyn Buffers>,
    bytes: u64,
    filled: u64,
}

impl BufferReservation {
    /// Wraps `bytes` that `account` has just reserved.
    pub fn new(account: Arc<dyn Buffers>, bytes: u64) -> Self {
        Self {
            account,
            bytes,
            filled: 0,
        }
    }

    /// Counts `bytes` more as in use. From then on they are part of the process's measured memory.
    pub fn fill(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes - self.filled);
        self.filled += bytes;
        self.account.fill(bytes);
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is reserved above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let filled = bytes.min(self.filled);
        self.account
            .release(self.bytes - bytes, self.filled - filled);
        (self.bytes, self.filled) = (bytes, filled);
    }

    /// Adds this reservation to `other`, which must be of the same account, or becomes `other` where
    /// that is `None`.
    pub fn merge_into(mut self, other: &mut Option<Self>) {
        if let Some(other) = other {
            other.bytes += std::mem::take(&mut self.bytes);
            other.filled += std::mem::take(&mut self.filled);
        } else {
            *other = Some(self);
        }
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        self.account.release(self.bytes, self.filled);
    }
}

impl fmt::Debug for BufferReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BufferReservation({} of {} bytes)",
            self.filled, self.bytes
        )
    }
}

/// Makes [`Bytes`] that keep `reservation`, if there is one. Several buffers may share one
/// reservation; it ends when the last reference to the last of them is dropped.
pub fn reserved_bytes(
    bytes: impl Into<Bytes>,
    reservation: Option<&Arc<BufferReservation>>,
) -> Bytes {
    struct ReservedBytes {
        bytes: Bytes,
        _reservation: Arc<BufferReservation>,
    }

    impl AsRef<[u8]> for ReservedBytes {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    match reservation {
        Some(reservation) => Bytes::from_owner(ReservedBytes {
            bytes: bytes.into(),
            _reservation: Arc::clone(reservation),
        }),
        None => bytes.into(),
    }
}

/// Bytes of the budget that are reserved for a resource or a private server. Dropping it ends the
/// reservation.
pub struct Reservation {
    entry: Arc<dyn ReservationEntry>,
}

impl Reservation {
    /// Wraps an entry that was just added to the ledger.
    pub fn new(entry: Arc<dyn ReservationEntry>) -> Self {
        Self { entry }
    }

    /// The entry. An owner of processes keeps a clone to attach them.
    pub fn entry(&self) -> &Arc<dyn ReservationEntry> {
        &self.entry
    }

    /// Bytes that come free at its end: the larger of the reserved and the measured bytes.
    pub fn bytes(&self) -> u64 {
        self.entry.reserved().max(self.entry.measured())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.entry.release();
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.entry.reserved())
    }
}
