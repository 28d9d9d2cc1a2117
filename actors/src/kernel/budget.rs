//! What a room needs of the memory budget, without knowing the room that keeps it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A wish to use memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// For what, in the words of the catalogue.
    pub name: String,
    /// The estimated peak, in bytes.
    pub bytes: u64,
    /// Whether it may take what is kept free as long as something can be evicted instead: set when
    /// nothing can.
    pub use_headroom: bool,
}

/// Why a claim was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The budget has no room for it now.
    #[error("{need} bytes are needed, {free} of {budget} are free")]
    Short {
        /// Bytes claimed.
        need: u64,
        /// Bytes that nobody uses or has reserved.
        free: u64,
        /// The whole budget.
        budget: u64,
    },
    /// The keeper of the budget did not answer.
    #[error("the memory supervisor did not answer")]
    Unavailable,
}

/// Keeps the memory budget: grants claims as long as the sum of what is used and what is reserved
/// stays within it.
pub trait Budget: Send + Sync + 'static {
    /// Reserves `claim`, or says what is missing. Never evicts anything by itself.
    fn reserve(&self, claim: Claim) -> BoxFuture<'static, Result<Reservation, BudgetError>>;

    /// The most bytes that all reservations together could ever hold: what the budget leaves to loads
    /// when only the server itself uses memory. `None` while that is not known.
    fn most(&self) -> Option<u64> {
        None
    }
}

/// One entry of the ledger, as its holder may touch it.
pub trait Entry: Send + Sync {
    /// Counts the process `pid` under this entry: its real usage replaces the estimate where it is
    /// larger.
    fn attach(&self, pid: i32);

    /// No longer counts the process `pid`.
    fn detach(&self, pid: i32);

    /// Corrects the reserved bytes by what was measured.
    fn set_reserved(&self, bytes: u64);

    /// Bytes reserved now.
    fn reserved(&self) -> u64;

    /// Bytes that the attached processes really used when they were last measured; 0 before that.
    fn measured(&self) -> u64;

    /// The most that was ever measured.
    fn peak(&self) -> u64;

    /// Bytes that the attached process `pid` may use until memory would be exhausted by that alone.
    /// What idle things hold counts as left, since they can be evicted. Without bound where nothing is
    /// measured.
    fn usage_max(&self, _pid: i32) -> u64 {
        u64::MAX
    }

    /// Says how many use it: while none do, others may count on its memory. Without this it counts
    /// as always in use.
    fn count_uses(&self, _uses: Arc<AtomicUsize>) {}

    /// Gives the bytes back. Called once, at the end.
    fn release(&self);
}

/// Sets memory aside for buffers of this process: bodies of requests, caches. Granted or refused at
/// once, since whoever asks is serving a request.
pub trait Buffers: Send + Sync + 'static {
    /// Sets `bytes` aside, by what was last read of memory.
    ///
    /// # Errors
    /// [`BudgetError::Short`].
    fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError>;

    /// Has memory read again, unless that was done just now: to be waited for before a refusal is
    /// believed.
    fn refresh(&self) -> BoxFuture<'static, ()>;
}

impl dyn Buffers {
    /// Sets `bytes` aside; before a refusal is believed, memory is read again.
    ///
    /// # Errors
    /// [`BudgetError::Short`].
    pub async fn reserve_after_refresh(
        &self,
        bytes: u64,
    ) -> Result<BufferReservation, BudgetError> {
        if let Ok(hold) = self.reserve(bytes) {
            return Ok(hold);
        }
        self.refresh().await;
        self.reserve(bytes)
    }
}

/// The account behind holds, as they may touch it.
pub trait BufferAccounting: Send + Sync {
    /// `bytes` of what was set aside are in use now.
    fn fill(&self, bytes: u64);

    /// Gives back `held` bytes, of which `filled` were in use.
    fn release(&self, held: u64, filled: u64);
}

/// Bytes set aside for a buffer. Dropping it gives them back.
pub struct BufferReservation {
    account: Arc<dyn BufferAccounting>,
    bytes: u64,
    filled: u64,
}

impl BufferReservation {
    /// Wraps `bytes` that were just set aside.
    pub fn new(account: Arc<dyn BufferAccounting>, bytes: u64) -> Self {
        Self {
            account,
            bytes,
            filled: 0,
        }
    }

    /// Says that `bytes` more of it are in use: they show in the memory of the process from now on.
    pub fn fill(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes - self.filled);
        self.filled += bytes;
        self.account.fill(bytes);
    }

    /// Bytes set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Becomes part of `other`, which is of the same account, or takes its place where there is none.
    pub fn join(mut self, other: &mut Option<Self>) {
        if let Some(other) = other {
            other.bytes += std::mem::take(&mut self.bytes);
            other.filled += std::mem::take(&mut self.filled);
        } else {
            *other = Some(self);
        }
    }
}

/// `bytes` that keep `hold`, which they may share with others: the reservation ends with the last
/// reference to the last of them.
pub fn bytes_with_reservation(bytes: Vec<u8>, hold: Arc<BufferReservation>) -> Bytes {
    struct ReservedBytes {
        bytes: Vec<u8>,
        _hold: Arc<BufferReservation>,
    }

    impl AsRef<[u8]> for ReservedBytes {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    Bytes::from_owner(ReservedBytes { bytes, _hold: hold })
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

/// Bytes of the budget that are set aside for one thing. Dropping it gives them back.
pub struct Reservation {
    entry: Arc<dyn Entry>,
}

impl Reservation {
    /// Wraps an entry that was just added to a ledger.
    pub fn new(entry: Arc<dyn Entry>) -> Self {
        Self { entry }
    }

    /// The entry, for whoever must attach processes to it while the reservation stays elsewhere.
    pub fn entry(&self) -> &Arc<dyn Entry> {
        &self.entry
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
