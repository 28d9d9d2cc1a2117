//! Final answers that other servers find too, in Redis if it is configured.
//!
//! The actor of the chain asks here after a miss of its own cache, before it asks a provider, and stores here what it has
//! kept for ever. A value that is found goes through [`Cache::insert`](super::Cache::insert) like the answer of a provider.
//!
//! Guarantees:
//! - Only what [holds for ever](Hold::Ever) is stored. The key has the id of the chain and the hash of its first block: a chain
//!   for development that begins anew has the same id, and is another chain.
//! - A call waits a few milliseconds at most ([`SharedConfig`]). After a wait in vain, nobody asks for a while. A failure is a
//!   miss.
//! - The size of a value, the values that are under way, and the time that a value is kept are bounded, and the values here are
//!   part of the memory budget. How much Redis keeps in
//!   all is its own setting (`maxmemory`).
//! - What is no value of this form is a miss.
//!
//! If a final block is replaced after all, what is stored about it is wrong: the actor must not use this any longer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::keep::{Hold, Keep};
use super::key::Key;
use crate::chain::hex::BlockHash;
use crate::kernel::{Buffers, SharedStore, reserved_bytes};

/// How long a server waits for others' answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedConfig {
    /// The longest time that a call waits.
    pub wait_max: Duration,
    /// How long nobody asks after a wait in vain.
    pub rest: Duration,
}

impl Default for SharedConfig {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_millis(5),
            rest: Duration::from_secs(1),
        }
    }
}

/// How long a value is kept.
const TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest time in which a value is stored. Nobody waits for it.
const STORE_MAX: Duration = Duration::from_secs(1);

/// The most bytes of an answer.
const ANSWER_MAX: usize = 256 * 1024;

/// The most values that are under way in each direction.
const UNDER_WAY_MAX: usize = 32;

/// The most bytes of a value.
const VALUE_MAX: usize = PREFIX + ANSWER_MAX;

/// What stands for no block.
const NO_BLOCK: u64 = u64::MAX;

/// The bytes in front of an answer: its checksum and its block.
const PREFIX: usize = 4 + 8;

/// The final answers of one chain that other servers find too. Clones share it.
#[derive(Clone)]
pub struct SharedAnswers(Arc<Shared>);

struct Shared {
    config: SharedConfig,
    account: Arc<dyn Buffers>,
    store: Arc<dyn SharedStore>,
    prefix: String,
    reads: Semaphore,
    writes: Semaphore,
    rests_until: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for SharedAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedAnswers({})", self.0.prefix)
    }
}

impl SharedAnswers {
    /// The answers of the chain `id` that begins with the block `first`, whose memory here is of `account`.
    pub fn new(
        store: Arc<dyn SharedStore>,
        id: u64,
        first: BlockHash,
        config: SharedConfig,
        account: Arc<dyn Buffers>,
    ) -> Self {
        Self(Arc::new(Shared {
            config,
            account,
            store,
            prefix: format!("headroom:chain:1:{id}:{first}:"),
            reads: Semaphore::new(UNDER_WAY_MAX),
            writes: Semaphore::new(UNDER_WAY_MAX),
            rests_until: Mutex::default(),
        }))
    }

    /// The answer to the call `key`, if another server has stored it.
    pub async fn get(&self, key: &Key) -> Option<(Bytes, Keep)> {
        let began = Instant::now();
        let shared = &*self.0;
        if shared.rests(began) {
            return None;
        }
        let _permit = shared.reads.try_acquire().ok()?;
        // How long the value is, is not known before it is there.
        let mut memory = shared.account.reserve(VALUE_MAX as u64).ok()?;
        let wait_max = shared.config.wait_max;
        let value = shared.store.get(shared.key(key), wait_max);
        // The store keeps the time too. This is in case that it does not.
        let value = tokio::time::timeout(wait_max * 2, value).await;
        let value = value.ok().flatten();
        if value.is_none() && began.elapsed() >= wait_max {
            shared.rest(Instant::now() + shared.config.rest);
        }
        let value = value.filter(|value| value.len() <= VALUE_MAX)?;
        let keep = unpack(&value)?;
        memory.shrink_to(value.len() as u64);
        memory.fill(value.len() as u64);
        let value = reserved_bytes(Vec::from(value), Some(&Arc::new(memory)));
        Some((value.slice(PREFIX..), keep))
    }

    /// Stores `answer` to the call `key`, if it holds for ever. Nobody should wait for this.
    pub async fn put(&self, key: &Key, answer: &Bytes, keep: Keep) {
        let shared = &*self.0;
        if keep.hold != Hold::Ever || answer.len() > ANSWER_MAX || shared.rests(Instant::now()) {
            return;
        }
        let Ok(_permit) = shared.writes.try_acquire() else {
            return;
        };
        let length = (PREFIX + answer.len()) as u64;
        let Ok(_memory) = shared.account.take(length) else {
            return;
        };
        let value = pack(answer, keep.block);
        let stored = shared.store.set(shared.key(key), value, TTL, STORE_MAX);
        // A failure is a miss later.
        drop(tokio::time::timeout(STORE_MAX, stored).await);
    }
}

impl Shared {
    fn key(&self, key: &Key) -> String {
        format!("{}{}", self.prefix, BlockHash::new(*key.as_bytes()))
    }

    fn rests(&self, now: Instant) -> bool {
        let until = self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }

    fn rest(&self, until: Instant) {
        *self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

fn pack(answer: &[u8], block: Option<u64>) -> Bytes {
    let mut value = Vec::with_capacity(PREFIX + answer.len());
    value.put_u32_le(0);
    value.put_u64_le(block.unwrap_or(NO_BLOCK));
    value.put_slice(answer);
    let checksum = crc32c::crc32c(&value[4..]);
    value[..4].copy_from_slice(&checksum.to_le_bytes());
    Bytes::from(value)
}

/// How long the answer in `value` holds. `None` if there is none.
fn unpack(value: &[u8]) -> Option<Keep> {
    let (checksum, body) = value.split_first_chunk::<4>()?;
    let (block, _) = body.split_first_chunk::<8>()?;
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return None;
    }
    let block = u64::from_le_bytes(*block);
    Some(Keep {
        hold: Hold::Ever,
        block: (block != NO_BLOCK).then_some(block),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_value_is_read_as_it_was_written_or_not_at_all(
            answer: Vec<u8>,
            block in proptest::option::of(0..1_u64 << 40),
            at: usize,
            flip in 1..=255_u8,
        ) {
            let value = pack(&answer, block);
            let keep = Keep { hold: Hold::Ever, block };
            prop_assert_eq!(unpack(&value), Some(keep));
            prop_assert_eq!(&value[PREFIX..], answer);
            let mut broken = value.to_vec();
            let at = at % broken.len();
            broken[at] ^= flip;
            prop_assert_eq!(unpack(&broken), None);
            prop_assert_eq!(unpack(&value[..at]), None);
        }
    }
}
