//! `eth_getLogs`: ranges of blocks that providers refuse are split, and the parts are put together in order.
//!
//! Providers differ in how many blocks and how many logs they search at once, and few say so in the same words. So a range
//! that all of them refuse is halved until they take it. What they took is remembered, and later ranges are split before
//! they are sent.
//!
//! Many logs go to a caller that takes them in parts while the rest is searched: then no more than a few parts are held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::reading::Newest;
use super::{Needs, Serving, metrics};
use crate::chain::block_param::{Height, Tag};
use crate::chain::config::ChainConfig;
use crate::chain::error::ChainError;
use crate::chain::log_range::{LogBlocks, LogFilter};
use crate::chain::messages::{SearchLogs, Searched};
use crate::chain::methods::Method;
use crate::chain::provider::ErrorKind;
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::reserved_bytes;

/// Parts that are searched at once.
const AT_ONCE: usize = 4;
/// The same while logs are sent, which wait for their reader.
const AT_ONCE_STREAMED: usize = 2;
/// The blocks of a part before any provider has refused one.
const BLOCKS_AT_FIRST: u64 = 10_000;
/// Logs of more bytes are sent while others are searched. What is less comes whole, so that an error can take its place.
const STREAMED_FROM: u64 = 1024 * 1024;
/// How long a search waits for memory, before it tries again.
const MEMORY_AWAITED: Duration = Duration::from_millis(100);

/// Blocks from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Blocks {
    first: u64,
    last: u64,
}

impl Blocks {
    fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Parts of at most so many blocks, in order.
    fn split(self, blocks_max: u64) -> impl Iterator<Item = Self> {
        let step = blocks_max.max(1);
        let parts = self.count().div_ceil(step);
        (0..parts).map(move |part| {
            let first = self.first + part * step;
            let last = first.saturating_add(step - 1).min(self.last);
            Self { first, last }
        })
    }
}

/// A search for logs in a range of blocks.
struct Search<'call> {
    call: &'call Call,
    filter: LogFilter<'call>,
    blocks: Blocks,
}

/// The most blocks of a part at first.
pub(super) fn blocks_at_first(config: &ChainConfig) -> u64 {
    let known = config.providers.iter().filter_map(|it| it.logs_range_max);
    // The most generous one: the others say what they do not take.
    known.max().unwrap_or(BLOCKS_AT_FIRST)
}

/// A part of a search.
enum Part {
    /// Nobody has searched it yet.
    Unsearched(Blocks),
    /// Its logs, which wait for those of the parts before it.
    Found(Bytes),
}

/// Why a part was not searched.
enum Unsearchable {
    /// There is no memory for its logs now.
    Memory(Blocks),
    /// The error of a provider that concerns the caller.
    Error(Bytes),
}

/// Where logs go that were found.
enum Destination<'sender> {
    /// They are answered together, if they have at most so many bytes.
    Answer { bytes_max: u64 },
    /// They are sent in parts, if they are many.
    Parts(&'sender mpsc::Sender<Bytes>),
}

/// The logs that were found, in order.
struct Results<'sender> {
    /// The arrays that were not sent, without those that are empty.
    waiting: Vec<Bytes>,
    /// The bytes of all logs, also of those that were sent.
    bytes: u64,
    destination: Destination<'sender>,
}

impl<'sender> Results<'sender> {
    fn new(destination: Destination<'sender>) -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            destination,
        }
    }

    fn are_streamed(&self) -> bool {
        matches!(self.destination, Destination::Parts(_)) && self.bytes > STREAMED_FROM
    }

    async fn add(&mut self, logs: Bytes) -> Result<(), ChainError> {
        if members(&logs).is_empty() {
            return Ok(());
        }
        self.bytes += logs.len() as u64;
        self.waiting.push(logs);
        match self.destination {
            Destination::Parts(sender) if self.are_streamed() => {
                for logs in self.waiting.drain(..) {
                    // A caller that has gone away cancels the search.
                    sender.send(logs.slice_ref(members(&logs))).await.ok();
                }
                Ok(())
            }
            Destination::Answer { bytes_max } if self.bytes > bytes_max => {
                Err(ChainError::Invalid(
                    "the logs of the range are too many: ask for fewer blocks at once",
                ))
            }
            _ => Ok(()),
        }
    }
}

impl Serving {
    /// Searches logs.
    pub(super) async fn logs(
        &self,
        call: &Arc<Call>,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let Some(search) = Search::read(call, newest.latest()) else {
            return self.pass_on(call, newest, deadline).await;
        };
        let providers = self.config.providers.iter();
        let bytes_max = providers.map(|it| it.answer_max).max().unwrap_or_default();
        let mut results = Results::new(Destination::Answer { bytes_max });
        let found = self.search(&search, deadline, Duration::ZERO, &mut results);
        match found.await? {
            Some(error) => Ok(Outcome::Error(error)),
            None => self.join(results.waiting),
        }
    }

    /// Searches logs, and sends them while the search goes on if they are many.
    pub(in crate::chain) async fn stream_logs(
        &self,
        message: &SearchLogs,
    ) -> Result<Searched, ChainError> {
        let call = &message.call;
        self.check_allowed(call, Method::of(&call.method))?;
        let deadline = Instant::now() + message.within;
        let newest = self.newest_for(std::slice::from_ref(call), deadline).await;
        let Some(search) = Search::read(call, newest.latest()) else {
            return Ok(Searched::Whole(self.pass_on(call, newest, deadline).await?));
        };
        let mut results = Results::new(Destination::Parts(&message.parts));
        let found = self.search(&search, deadline, message.step_within, &mut results);
        Ok(match found.await? {
            Some(error) => Searched::Whole(Outcome::Error(error)),
            None if results.are_streamed() => Searched::Streamed,
            None => Searched::Whole(self.join(results.waiting)?),
        })
    }

    /// Sends a search as it is written, because only a provider knows which blocks these are, or what is wrong with it.
    async fn pass_on(
        &self,
        call: &Arc<Call>,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        // A provider that is behind would not find all.
        let needs = Needs {
            head_min: newest.shown,
            ..Needs::default()
        };
        let answer = self.attempt(call, Method::of(&call.method), &needs, deadline);
        let answer = timeout_at(deadline, answer).await;
        Ok(answer.unwrap_or(Err(ChainError::Deadline))?.outcome)
    }

    /// Searches all parts, and adds what they have to `results`. When the first were sent, each further step has
    /// `step_within`. Returns the error of a provider that concerns the caller.
    async fn search(
        &self,
        search: &Search<'_>,
        mut deadline: Instant,
        step_within: Duration,
        results: &mut Results<'_>,
    ) -> Result<Option<Bytes>, ChainError> {
        if search.blocks.count() > self.config.logs_range_max {
            return Err(ChainError::Invalid(
                "the range has too many blocks: ask for fewer at once",
            ));
        }
        let mut reorgs_seen = self.filters.borrow().reorgs().count();
        let all = || {
            search
                .blocks
                .split(self.logs_blocks.get())
                .map(Part::Unsearched)
        };
        let mut left: VecDeque<_> = all().collect();
        let mut searched_to = None;
        let mut at_once = AT_ONCE;
        while !left.is_empty() {
            // Logs of two branches are no answer. First what was searched before, then what is searched now.
            let mut is_reorganised = self.is_reorganised(&mut reorgs_seen, searched_to);
            let wave: Vec<_> = left.drain(..left.len().min(at_once)).collect();
            for part in &wave {
                if let Part::Unsearched(blocks) = part {
                    searched_to = searched_to.max(Some(blocks.last));
                }
            }
            let searched = wave.into_iter().map(|part| async move {
                match part {
                    Part::Unsearched(blocks) => self.search_part(search, blocks, deadline).await,
                    part => Ok(Ok(vec![part])),
                }
            });
            let searched = timeout_at(deadline, join_all(searched)).await;
            let searched = searched.map_err(|_| ChainError::Deadline)?;
            let (mut parts, mut is_memory_short) = (Vec::new(), false);
            for searched in searched {
                match searched? {
                    Ok(more) => parts.extend(more),
                    Err(Unsearchable::Memory(blocks)) if at_once > 1 || results.are_streamed() => {
                        is_memory_short = true;
                        parts.push(Part::Unsearched(blocks));
                    }
                    Err(Unsearchable::Memory(_)) => return Err(ChainError::Memory),
                    Err(Unsearchable::Error(error)) => return Ok(Some(error)),
                }
            }
            // What was split comes back in its place.
            parts
                .into_iter()
                .rev()
                .for_each(|part| left.push_front(part));
            is_reorganised |= self.is_reorganised(&mut reorgs_seen, searched_to);
            if is_reorganised {
                if results.are_streamed() {
                    return Err(ChainError::Reorganised);
                }
                (results.waiting, results.bytes) = (Vec::new(), 0);
                left = all().collect();
                searched_to = None;
                continue;
            }
            while let Some(Part::Found(logs)) =
                left.pop_front_if(|part| matches!(part, Part::Found(_)))
            {
                results.add(logs).await?;
            }
            if is_memory_short && at_once == 1 {
                // Those who read their answers give some back.
                sleep(MEMORY_AWAITED).await;
                continue;
            }
            let at_once_max = match results.are_streamed() {
                true => AT_ONCE_STREAMED,
                false => AT_ONCE,
            };
            at_once = match is_memory_short {
                true => 1,
                false => at_once_max.min(at_once * 2),
            };
            if results.are_streamed() {
                deadline = Instant::now() + step_within;
            }
        }
        Ok(None)
    }

    /// Whether blocks up to `last` were replaced since `seen` reorganisations. Counts them as seen.
    fn is_reorganised(&self, seen: &mut u64, last: Option<u64>) -> bool {
        let filters = self.filters.borrow();
        let reorgs = filters.reorgs();
        let lowest = reorgs.lowest_since(*seen);
        *seen = reorgs.count();
        lowest.is_some() && lowest <= last
    }

    /// Searches a part: what was found, or its halves if that is too much for the providers.
    async fn search_part(
        &self,
        search: &Search<'_>,
        blocks: Blocks,
        deadline: Instant,
    ) -> Result<Result<Vec<Part>, Unsearchable>, ChainError> {
        let call = Arc::new(Call {
            method: Arc::clone(&search.call.method),
            params: search.filter.over(blocks.first, blocks.last),
        });
        let needs = Needs {
            head_min: Some(blocks.last),
            ..Needs::default()
        };
        let answer = self.attempt(&call, Method::of(&call.method), &needs, deadline);
        let answer = match answer.await {
            Err(ChainError::Memory) => return Ok(Err(Unsearchable::Memory(blocks))),
            answer => answer?,
        };
        match answer.outcome {
            Outcome::Result(logs) => {
                if blocks.count() >= self.logs_blocks.get() {
                    // What was refused may have been one crowded range.
                    let more = self.logs_blocks.get().saturating_mul(2);
                    self.logs_blocks
                        .set(more.min(blocks_at_first(&self.config)));
                }
                Ok(Ok(vec![Part::Found(logs)]))
            }
            Outcome::Error(_) if answer.fault == Some(ErrorKind::Range) && blocks.count() > 1 => {
                metrics::split(&self.config.name);
                let half = blocks.count().div_ceil(2);
                self.logs_blocks.set(self.logs_blocks.get().min(half));
                Ok(Ok(blocks.split(half).map(Part::Unsearched).collect()))
            }
            Outcome::Error(error) => Ok(Err(Unsearchable::Error(error))),
        }
    }

    /// One array of the members of several.
    fn join(&self, mut parts: Vec<Bytes>) -> Result<Outcome, ChainError> {
        if parts.len() == 1 {
            return Ok(Outcome::Result(parts.remove(0)));
        }
        let length = parts.iter().map(|part| part.len() + 1).sum::<usize>() + 2;
        let memory = self.take_memory(length as u64)?;
        let mut joined = Vec::with_capacity(length);
        joined.push(b'[');
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(members(part));
        }
        joined.push(b']');
        let joined = reserved_bytes(joined, Some(&Arc::new(memory)));
        Ok(Outcome::Result(joined))
    }
}

impl<'call> Search<'call> {
    /// The search that a call describes, if it is one of a range of blocks that are there.
    fn read(call: &'call Call, head: Option<u64>) -> Option<Self> {
        let (filter, head) = (LogFilter::read(&call.params).ok()?, head?);
        let LogBlocks::Range { from, to } = filter.blocks() else {
            return None;
        };
        let number = |height| match height {
            Height::Number(number) => Some(number),
            Height::Tag(Tag::Latest) => Some(head),
            Height::Tag(Tag::Earliest) => Some(0),
            // Only a provider knows them.
            Height::Tag(Tag::Pending | Tag::Safe | Tag::Finalized) => None,
        };
        let (first, last) = (number(from)?, number(to)?);
        let is_there = first <= last && last <= head;
        let blocks = Blocks { first, last };
        is_there.then_some(Self {
            call,
            filter,
            blocks,
        })
    }
}

/// What is in an array.
fn members(array: &[u8]) -> &[u8] {
    let array = array.trim_ascii();
    let inner = array
        .strip_prefix(b"[")
        .and_then(|it| it.strip_suffix(b"]"));
    inner.unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn blocks_of(params: &str, head: u64) -> Option<(u64, u64)> {
        let call = Call::new("eth_getLogs", params.to_owned());
        let search = Search::read(&call, Some(head))?;
        Some((search.blocks.first, search.blocks.last))
    }

    #[test]
    fn ranges_are_read_as_clients_write_them() {
        for (params, expected) in [
            (r#"[{"fromBlock":"0x1","toBlock":"0xa"}]"#, Some((1, 10))),
            (r#"[{"fromBlock":"0x1"}]"#, Some((1, 100))),
            (
                r#"[{"fromBlock":"earliest","toBlock":"latest"}]"#,
                Some((0, 100)),
            ),
            (r#"[{}]"#, Some((100, 100))),
            (r#"[{"fromBlock":"0x5","toBlock":"0x5"}]"#, Some((5, 5))),
            // Not ranges, or not known here.
            (r#"[{"fromBlock":"0x9","toBlock":"0x5"}]"#, None),
            (r#"[{"fromBlock":"0x1","toBlock":"0xffff"}]"#, None),
            (r#"[{"fromBlock":"0x1","toBlock":"finalized"}]"#, None),
            (r#"[{"fromBlock":1,"toBlock":2}]"#, None),
            (r#"[{"fromBlock":"0x1","blockHash":"0x12"}]"#, None),
            // What a node would refuse, or read otherwise.
            (r#"[{"fromBlock":""}]"#, None),
            (r#"[{"fromBlock":"0x+1"}]"#, None),
            (r#"[{"FromBlock":"0x1"}]"#, None),
            (r#"[{"fromBlock":"0x1","fromBlock":"0x2"}]"#, None),
            (r#"[{},{}]"#, None),
            (r#"[]"#, None),
            ("", None),
        ] {
            assert_eq!(blocks_of(params, 100), expected, "{params}");
        }
    }

    #[test]
    fn members_are_those_between_the_brackets() {
        for (array, expected) in [("[]", ""), (" [ ] ", ""), ("[1, 2]", "1, 2"), ("null", "")] {
            assert_eq!(members(array.as_bytes()), expected.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn parts_cover_every_block_once(first in any::<u64>(), count in 1..100_000u64, step in 0..5000u64) {
            let last = first.saturating_add(count - 1);
            let whole = Blocks { first, last };
            let mut next = Some(first);
            for part in whole.split(step) {
                prop_assert_eq!(Some(part.first), next);
                prop_assert!(part.count() <= step.max(1));
                next = part.last.checked_add(1);
            }
            prop_assert_eq!(next, last.checked_add(1));
        }
    }
}
