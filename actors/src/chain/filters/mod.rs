//! Filters that the gateway keeps itself: `eth_newFilter`, `eth_newBlockFilter`, `eth_newPendingTransactionFilter`,
//! `eth_getFilterChanges`, `eth_getFilterLogs` and `eth_uninstallFilter`.
//!
//! Why it exists: a filter of a provider dies with the provider, and another provider does not know it. Here, a filter is a
//! place in the chain and what was searched for. A poll searches the blocks since that place, by any provider.
//!
//! A poll has two halves: [`Filters::changes`] says what to [ask](Ask), and [`Filters::finish`] takes the answer and moves the
//! place on. A poll that fails or is cancelled in between changes nothing, so its caller may repeat it and misses nothing.
//!
//! As with geth, a filter finds what is new since it was made. After a reorganisation it first gives the logs of blocks that are
//! gone again, newest first, with `removed: true`, then those of the blocks in their place. A log that is in both is not
//! repeated.
//!
//! A filter of pending transactions is a number in the list of their hashes, which others keep.
//!
//! Where the chain has a [gap](Change::Gap), fill it before a poll: until then, a filter may give out logs of blocks before it
//! was made.
//!
//! Bounds: filters in all and by caller, bytes, which are part of the memory budget, the blocks of one poll (a later poll goes on), and the time without a poll.
//! Logs of final blocks are forgotten once they were given out. If there are too many others, the oldest are forgotten too:
//! these would not be reported as removed.

mod delivered;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::block_param::{Height, Tag};
use super::heads::{Change, Heads};
use super::hex::BlockHash;
use super::log_range::LogFilter;
use super::pending::Wanted;
use super::reorgs::Reorgs;
use crate::kernel::{BufferReservation, Buffers, reserved_bytes};
use delivered::{Delivered, Item};

/// The settings of [`Filters`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiltersConfig {
    /// The most filters.
    pub count_max: usize,
    /// The most filters of one caller.
    pub caller_max: usize,
    /// How long a filter is kept that nobody polls.
    pub ttl: Duration,
    /// The most bytes of what one filter searches for.
    pub criteria_max: usize,
    /// The most bytes of what one filter remembers of what it has given out.
    pub delivered_max: u64,
    /// The most bytes of all filters.
    pub bytes_max: u64,
    /// The most blocks of one poll.
    pub blocks_max: u64,
}

impl Default for FiltersConfig {
    fn default() -> Self {
        Self {
            count_max: 10_000,
            caller_max: 100,
            ttl: Duration::from_secs(300),
            criteria_max: 16 * 1024,
            delivered_max: 128 * 1024,
            bytes_max: 32 * 1024 * 1024,
            blocks_max: 2_000,
        }
    }
}

/// The id of a filter, which cannot be guessed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FilterId(u128);

impl FilterId {
    /// Reads `0x` and hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x")?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u128::from_str_radix(digits, 16).ok()?;
        is_plain.then_some(Self(id))
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

impl fmt::Debug for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows an id can use the filter.
        f.write_str("FilterId")
    }
}

/// Why a filter cannot be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// There is none with this id: it was removed, or nobody has polled it for long.
    #[error("filter not found")]
    NotFound,
    /// There are too many, of this caller or in all.
    #[error("too many filters")]
    TooMany,
    /// What it should search for is not what clients write.
    #[error("invalid filter")]
    Malformed,
    /// The chain is not known yet.
    #[error("the newest block is not known yet")]
    NoHead,
    /// There is no memory for it, or for what it gives out. A poll that fails for that loses nothing.
    #[error("there is no memory for the filter now")]
    Memory,
}

/// What to ask a provider for.
#[derive(Debug)]
pub enum Ask {
    /// Nothing: this is the answer.
    Nothing(Bytes),
    /// The result of `eth_getLogs` with these parameters, of a provider that has the last block.
    Logs {
        /// For [`Filters::finish`].
        poll: Poll,
        /// The parameters.
        params: Bytes,
    },
    /// The hashes of these blocks, in order.
    Hashes {
        /// For [`Filters::finish_hashes`].
        poll: Poll,
    },
    /// The hashes of pending transactions. `Filters::finish_pending` follows.
    Pending {
        /// The number of the first one.
        next: u64,
    },
}

/// The place of a filter at the first half of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    id: FilterId,
    next: u64,
    seen: u64,
    reorgs: u64,
    /// What may have been given out wrongly begins here.
    changed_from: u64,
    /// The first block that is searched.
    pub from: u64,
    /// The last block that is searched.
    pub to: u64,
    last: u64,
}

/// The end of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The answer to the caller.
    Answer(Bytes),
    /// The chain or the filter has changed meanwhile, or the provider is on another branch: poll anew.
    Again,
}

#[derive(Debug)]
struct Filter {
    caller: Arc<str>,
    source: Source,
    used_at: Instant,
    /// That of its bytes.
    memory: BufferReservation,
}

/// Where a filter finds what is new.
#[derive(Debug)]
enum Source {
    /// In the blocks of the chain.
    Chain(Place),
    /// In the list of pending transactions.
    Pending {
        /// The number of the first one that was not given out.
        next: u64,
        _wanted: Rc<Wanted>,
    },
}

/// The place of a filter in the chain.
#[derive(Debug)]
struct Place {
    /// The parameters of a filter of logs. `None`: a filter of blocks.
    criteria: Option<Bytes>,
    /// The newest block when it was made.
    made_at: (u64, BlockHash),
    /// The first block that was not searched.
    next: u64,
    /// How many reorganisations have been taken into account.
    seen: u64,
    delivered: Delivered,
}

impl Place {
    /// The first block of a reorganisation from the block `lowest` on that matters here. How deep it was may not be known; what
    /// was there before the filter, and still is, is not new.
    fn first_changed(&self, lowest: u64, heads: &Heads) -> u64 {
        let (number, hash) = self.made_at;
        let is_there = heads.is_final(number) || heads.hash_at(number) == Some(hash);
        match is_there && self.delivered.first().is_none_or(|first| first > number) {
            true => lowest.max(number + 1),
            false => lowest,
        }
    }

    /// What it takes beside the filter itself.
    fn bytes(&self) -> u64 {
        let criteria = self.criteria.as_ref().map_or(0, Bytes::len);
        criteria as u64 + self.delivered.bytes()
    }
}

impl Filter {
    /// Its place in the chain, if it has one.
    fn place(&mut self) -> Result<&mut Place, FilterError> {
        match &mut self.source {
            Source::Chain(place) => Ok(place),
            Source::Pending { .. } => Err(FilterError::NotFound),
        }
    }

    /// Reserves the memory of what it remembers. If there is too little, it forgets the oldest.
    fn remember(&mut self, account: &Arc<dyn Buffers>) {
        let lacking = self.bytes().saturating_sub(self.memory.bytes());
        if lacking > 0 {
            match (take(account, self.bytes()), &mut self.source) {
                (Ok(memory), _) => self.memory = memory,
                (Err(_), Source::Chain(place)) => {
                    let left = place.delivered.bytes().saturating_sub(lacking);
                    place.delivered.forget(0, left);
                }
                (Err(_), Source::Pending { .. }) => {}
            }
        }
        self.memory.shrink_to(self.bytes());
    }

    fn bytes(&self) -> u64 {
        self.source.bytes()
    }
}

impl Source {
    /// The bytes of a filter with it.
    fn bytes(&self) -> u64 {
        let place = match self {
            Self::Chain(place) => place.bytes(),
            Self::Pending { .. } => 0,
        };
        size_of::<Filter>() as u64 + place
    }
}

/// Reserves and fills so many bytes.
fn take(account: &Arc<dyn Buffers>, bytes: u64) -> Result<BufferReservation, FilterError> {
    account.take(bytes).map_err(|_| FilterError::Memory)
}

/// The filters of one chain.
pub struct Filters {
    config: FiltersConfig,
    account: Arc<dyn Buffers>,
    filters: HashMap<FilterId, Filter>,
    callers: HashMap<Arc<str>, usize>,
    bytes: u64,
    reorgs: Reorgs,
}

impl Filters {
    /// No filters. Their memory is of `account`.
    pub fn new(config: FiltersConfig, account: Arc<dyn Buffers>) -> Self {
        Self {
            config,
            account,
            filters: HashMap::new(),
            callers: HashMap::new(),
            bytes: 0,
            reorgs: Reorgs::default(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.filters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The reorganisations of late.
    pub fn reorgs(&self) -> &Reorgs {
        &self.reorgs
    }

    /// Takes a change of the chain. Must come before the next poll.
    pub fn follow(&mut self, change: Change) {
        if let Change::Reorganised { from } = change {
            self.reorgs.record(from);
        }
    }

    /// Makes a filter of logs with the parameters of `eth_newFilter`.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn new_logs(
        &mut self,
        caller: &Arc<str>,
        params: &[u8],
        heads: &Heads,
        now: Instant,
    ) -> Result<FilterId, FilterError> {
        if params.len() > self.config.criteria_max {
            return Err(FilterError::Malformed);
        }
        let filter = LogFilter::read(params).map_err(|_| FilterError::Malformed)?;
        let is_possible = match (filter.from, filter.to) {
            (Some(Height::Number(from)), Some(Height::Number(to))) => from <= to,
            (from, to) => [from, to]
                .iter()
                .all(|height| *height != Some(Height::Tag(Tag::Pending))),
        };
        if filter.hash.is_some() || !is_possible || !filter.has_valid_criteria() {
            return Err(FilterError::Malformed);
        }
        let criteria = Some(Bytes::copy_from_slice(params));
        self.add(caller, self.place(criteria, heads)?, now)
    }

    /// Makes a filter of blocks.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn new_blocks(
        &mut self,
        caller: &Arc<str>,
        heads: &Heads,
        now: Instant,
    ) -> Result<FilterId, FilterError> {
        self.add(caller, self.place(None, heads)?, now)
    }

    /// Makes a filter of pending transactions, from the number `next` on.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub(super) fn new_pending(
        &mut self,
        caller: &Arc<str>,
        wanted: Rc<Wanted>,
        next: u64,
        now: Instant,
    ) -> Result<FilterId, FilterError> {
        let source = Source::Pending {
            next,
            _wanted: wanted,
        };
        self.add(caller, source, now)
    }

    /// The present place in the chain.
    fn place(&self, criteria: Option<Bytes>, heads: &Heads) -> Result<Source, FilterError> {
        let head = heads.head().ok_or(FilterError::NoHead)?;
        Ok(Source::Chain(Place {
            criteria,
            made_at: (head.number, head.hash),
            next: head.number.saturating_add(1),
            seen: self.reorgs.count(),
            delivered: Delivered::default(),
        }))
    }

    fn add(
        &mut self,
        caller: &Arc<str>,
        source: Source,
        now: Instant,
    ) -> Result<FilterId, FilterError> {
        let bytes = source.bytes();
        let is_full = |filters: &Self| {
            let of_caller = filters.callers.get(caller).copied().unwrap_or(0);
            filters.filters.len() >= filters.config.count_max
                || of_caller >= filters.config.caller_max
                || filters.bytes + bytes > filters.config.bytes_max
        };
        if is_full(self) {
            self.sweep(now);
        }
        if is_full(self) {
            return Err(FilterError::TooMany);
        }
        let filter = Filter {
            caller: Arc::clone(caller),
            source,
            used_at: now,
            memory: take(&self.account, bytes)?,
        };
        let id = FilterId(rand::random());
        self.bytes += bytes;
        *self.callers.entry(Arc::clone(caller)).or_default() += 1;
        self.filters.insert(id, filter);
        Ok(id)
    }

    /// Removes a filter. Returns whether there was one.
    pub fn uninstall(&mut self, id: FilterId) -> bool {
        let Some(filter) = self.filters.remove(&id) else {
            return false;
        };
        self.bytes -= filter.bytes();
        if let Some(count) = self.callers.get_mut(&filter.caller) {
            *count -= 1;
            if *count == 0 {
                self.callers.remove(&filter.caller);
            }
        }
        true
    }

    /// Removes the filters that nobody has polled for long. To be called once in a while.
    pub fn sweep(&mut self, now: Instant) {
        let ttl = self.config.ttl;
        let old = self
            .filters
            .iter()
            .filter(|(_, filter)| now.duration_since(filter.used_at) >= ttl);
        let old: Vec<_> = old.map(|(id, _)| *id).collect();
        for id in old {
            self.uninstall(id);
        }
    }

    /// A filter that was polled not too long ago, which counts as used now.
    fn used(&mut self, id: FilterId, now: Instant) -> Result<&mut Filter, FilterError> {
        let filter = self.filters.get(&id).ok_or(FilterError::NotFound)?;
        if now.duration_since(filter.used_at) >= self.config.ttl {
            self.uninstall(id);
        }
        let filter = self.filters.get_mut(&id).ok_or(FilterError::NotFound)?;
        filter.used_at = now;
        Ok(filter)
    }

    /// The parameters of the `eth_getLogs` that answers `eth_getFilterLogs`.
    ///
    /// # Errors
    /// [`FilterError::NotFound`], also for a filter of something else.
    pub fn logs(&mut self, id: FilterId, now: Instant) -> Result<Bytes, FilterError> {
        let place = self.used(id, now)?.place()?;
        place.criteria.clone().ok_or(FilterError::NotFound)
    }

    /// The first half of `eth_getFilterChanges`.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn changes(
        &mut self,
        id: FilterId,
        heads: &Heads,
        now: Instant,
    ) -> Result<Ask, FilterError> {
        let (blocks_max, reorgs) = (self.config.blocks_max.max(1), self.reorgs.count());
        let seen = match &self.used(id, now)?.source {
            Source::Pending { next, .. } => return Ok(Ask::Pending { next: *next }),
            Source::Chain(place) => place.seen,
        };
        let head = heads.head().ok_or(FilterError::NoHead)?.number;
        let lowest = self.reorgs.lowest_since(seen);
        let place = self.used(id, now)?.place()?;
        let lowest = lowest.map(|lowest| place.first_changed(lowest, heads));
        let changed_from = lowest.map_or(place.next, |lowest| lowest.min(place.next));
        let last = head.min(changed_from.saturating_add(blocks_max - 1));
        let mut poll = Poll {
            id,
            next: place.next,
            seen: place.seen,
            reorgs,
            changed_from,
            from: changed_from,
            to: last,
            last,
        };
        let Some(criteria) = &place.criteria else {
            let known = (poll.from..=poll.to).map(|number| heads.hash_at(number));
            let Some(hashes) = known.collect::<Option<Vec<_>>>() else {
                return Ok(Ask::Hashes { poll });
            };
            return self.finish_at_once(&poll, &hashes, heads, now);
        };
        let criteria = LogFilter::read(criteria).map_err(|_| FilterError::Malformed)?;
        if let Some(from) = criteria.from.and_then(number) {
            poll.from = poll.from.max(from);
        }
        if let Some(to) = criteria.to.and_then(number) {
            poll.to = poll.to.min(to);
        }
        if poll.from > poll.to {
            return self.finish_at_once(&poll, &[], heads, now);
        }
        let params = criteria.over(poll.from, poll.to);
        Ok(Ask::Logs { poll, params })
    }

    fn finish_at_once(
        &mut self,
        poll: &Poll,
        hashes: &[BlockHash],
        heads: &Heads,
        now: Instant,
    ) -> Result<Ask, FilterError> {
        let items = hashes_of(poll, hashes);
        let answer = self.deliver(poll, items, heads, now)?;
        Ok(Ask::Nothing(answer))
    }

    /// The second half of a poll of a filter of pending transactions: those before the number `next` were given out.
    pub(super) fn finish_pending(&mut self, id: FilterId, next: u64) {
        if let Some(filter) = self.filters.get_mut(&id)
            && let Source::Pending { next: first, .. } = &mut filter.source
        {
            *first = next;
        }
    }

    /// The second half of a poll of a filter of blocks: `hashes` are those of the blocks that were asked for.
    ///
    /// # Errors
    /// [`FilterError::NotFound`].
    pub fn finish_hashes(
        &mut self,
        poll: &Poll,
        hashes: &[BlockHash],
        heads: &Heads,
        now: Instant,
    ) -> Result<Finished, FilterError> {
        let count = (poll.to + 1).saturating_sub(poll.from);
        let items = hashes_of(poll, hashes);
        if hashes.len() as u64 != count || !self.is_current(poll, &items, heads)? {
            return Ok(Finished::Again);
        }
        self.deliver(poll, items, heads, now).map(Finished::Answer)
    }

    /// The second half of a poll of a filter of logs: `result` is what was asked for.
    ///
    /// # Errors
    /// [`FilterError::NotFound`].
    pub fn finish(
        &mut self,
        poll: &Poll,
        result: &[u8],
        heads: &Heads,
        now: Instant,
    ) -> Result<Finished, FilterError> {
        // The logs are copied while they are compared.
        let _copies = take(&self.account, result.len() as u64)?;
        match delivered::logs_of(result) {
            Some(items) if self.is_current(poll, &items, heads)? => {
                self.deliver(poll, items, heads, now).map(Finished::Answer)
            }
            _ => Ok(Finished::Again),
        }
    }

    /// Whether the filter has not changed since the first half of `poll`, and `items` are of the chain. A block that is replaced
    /// meanwhile, and of which there are no items, is searched again by the next poll.
    fn is_current(&self, poll: &Poll, items: &[Item], heads: &Heads) -> Result<bool, FilterError> {
        let filter = self.filters.get(&poll.id).ok_or(FilterError::NotFound)?;
        let Source::Chain(place) = &filter.source else {
            return Err(FilterError::NotFound);
        };
        let belongs = |item: &Item| {
            let known = heads.hash_at(item.number);
            (poll.from..=poll.to).contains(&item.number)
                && known.is_none_or(|known| known == item.hash)
        };
        let is_same = place.next == poll.next && place.seen == poll.seen;
        Ok(is_same && items.iter().all(belongs))
    }

    /// Moves the place of the filter on, and makes the answer.
    fn deliver(
        &mut self,
        poll: &Poll,
        items: Vec<Item>,
        heads: &Heads,
        now: Instant,
    ) -> Result<Bytes, FilterError> {
        let room = self.config.bytes_max.saturating_sub(self.bytes);
        let delivered_max = self.config.delivered_max;
        let account = Arc::clone(&self.account);
        let filter = self.used(poll.id, now)?;
        let before = filter.bytes();
        let place = filter.place()?;
        let bytes_max = delivered_max.min(place.delivered.bytes().saturating_add(room));
        let answer_max = place.delivered.answer_max(poll.changed_from, &items);
        let mut answer_memory = take(&account, answer_max)?;
        let answer = place.delivered.replace(poll.changed_from, items);
        answer_memory.shrink_to(answer.len() as u64);
        let answer = reserved_bytes(answer, Some(&Arc::new(answer_memory)));
        let first_open = heads
            .finalized()
            .map_or(0, |finalized| finalized.saturating_add(1));
        place.delivered.forget(first_open, bytes_max);
        // Without a new block, the place stays, or goes back to where the chain has changed.
        place.next = poll.last.saturating_add(1).max(poll.changed_from);
        place.seen = poll.reorgs;
        filter.remember(&account);
        let after = filter.bytes();
        self.bytes = self.bytes + after - before;
        Ok(answer)
    }
}

fn hashes_of(poll: &Poll, hashes: &[BlockHash]) -> Vec<Item> {
    let blocks = (poll.from..=poll.to).zip(hashes);
    blocks
        .map(|(number, hash)| Item::block(number, *hash))
        .collect()
}

fn number(height: Height) -> Option<u64> {
    match height {
        Height::Number(number) => Some(number),
        Height::Tag(_) => None,
    }
}
