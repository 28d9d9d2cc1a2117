//! `eth_getLogs`: ranges of blocks that providers refuse are split, and the parts are put together in order.
//!
//! Providers differ in how many blocks and how many logs they search at once, and few say so in the same words. So a range
//! that all of them refuse is halved until they take it, and the parts after it grow again: blocks may be crowded in one place
//! only. The next search begins with what they took.
//!
//! Many logs go to a caller that takes them in parts while the rest is searched: then no more than a few parts are held.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::reading::{Newest, Reading};
use super::{Needs, Serving, metrics};
use crate::chain::block::Block;
use crate::chain::block_param::{Height, Tag};
use crate::chain::cache::Key;
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
/// What providers take of a search of so many blocks is where the next search begins.
const LONG_SEARCH: u64 = 100;
/// How many parts are taken before more blocks are asked for where so many were refused.
const TAKEN_BEFORE_MORE: u32 = 4;
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

    /// The first so many blocks, and the rest.
    fn split_first(self, blocks_max: u64) -> (Self, Option<Self>) {
        let last = self.first.saturating_add(blocks_max.max(1) - 1);
        if last >= self.last {
            return (self, None);
        }
        let first = Self { last, ..self };
        let rest = Self {
            first: last + 1,
            ..self
        };
        (first, Some(rest))
    }
}

/// How many blocks the parts of a search have.
#[derive(Debug, Clone, Copy)]
struct Step {
    blocks: u64,
    blocks_max: u64,
    /// So many were refused.
    refused: Option<u64>,
    /// Parts of that size that were taken since it last changed.
    taken: u32,
    /// The most blocks that were taken at once.
    most_taken: u64,
}

impl Step {
    fn new(blocks: u64, blocks_max: u64) -> Self {
        Self {
            blocks: blocks.min(blocks_max),
            blocks_max,
            refused: None,
            taken: 0,
            most_taken: 0,
        }
    }

    /// A part of so many blocks was searched. Parts are doubled; where so many blocks were refused, not at once.
    fn take(&mut self, count: u64) {
        self.most_taken = self.most_taken.max(count);
        if count < self.blocks {
            return;
        }
        self.taken += 1;
        let more = self.blocks.saturating_mul(2).min(self.blocks_max);
        let was_refused = self.refused.is_some_and(|refused| more >= refused);
        if !was_refused || self.taken >= TAKEN_BEFORE_MORE {
            self.refused = self.refused.filter(|_| !was_refused);
            self.blocks = more;
            self.taken = 0;
        }
    }

    /// A part of so many blocks was refused.
    fn refuse(&mut self, count: u64) {
        self.refused = Some(self.refused.map_or(count, |refused| refused.min(count)));
        self.blocks = self.blocks.min(count.div_ceil(2));
        self.taken = 0;
    }
}

/// A search for logs in a range of blocks.
struct Search<'call> {
    call: &'call Call,
    filter: LogFilter<'call>,
    blocks: Blocks,
}

/// What a call asks for.
enum Asked<'call> {
    /// The logs of blocks that are there.
    Known(Search<'call>),
    /// The logs of at most so many blocks, which only a provider knows.
    Other { blocks_max: u64 },
    /// Nothing that is understood here. A provider says what is wrong with it.
    Wrong,
}

/// The blocks that tags stand for, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
struct Tagged {
    latest: Option<u64>,
    safe: Option<u64>,
    finalized: Option<u64>,
}

/// The most blocks of a part at first.
pub(super) fn blocks_at_first(config: &ChainConfig) -> u64 {
    let providers = config.providers.iter();
    let most = providers.map(|it| it.logs_range_max.unwrap_or(BLOCKS_AT_FIRST));
    // The most generous one: the others say what they do not take.
    most.max().unwrap_or(BLOCKS_AT_FIRST)
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
        self: &Rc<Self>,
        call: &Arc<Call>,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let search = match self.asked(call, newest, deadline).await? {
            Asked::Known(search) => search,
            other => return self.pass_on(call, &other, newest, deadline).await,
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
        self: &Rc<Self>,
        message: &SearchLogs,
    ) -> Result<Searched, ChainError> {
        let call = &message.call;
        self.check_allowed(call, Method::of(&call.method))?;
        let deadline = Instant::now() + message.within;
        let newest = self.newest_for(std::slice::from_ref(call), deadline).await;
        let search = match self.asked(call, newest, deadline).await? {
            Asked::Known(search) => search,
            other => {
                let passed_on = self.pass_on(call, &other, newest, deadline).await;
                return passed_on.map(Searched::Whole);
            }
        };
        let mut results = Results::new(Destination::Parts(&message.parts));
        let found = self.search(&search, deadline, message.step_within, &mut results);
        Ok(match found.await? {
            Some(error) => Searched::Whole(Outcome::Error(error)),
            None if results.are_streamed() => Searched::Streamed,
            None => Searched::Whole(self.join(results.waiting)?),
        })
    }

    /// Reads a call.
    ///
    /// # Errors
    /// It is about more blocks than are allowed.
    async fn asked<'call>(
        self: &Rc<Self>,
        call: &'call Call,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Asked<'call>, ChainError> {
        let Ok(filter) = LogFilter::read(&call.params) else {
            return Ok(Asked::Wrong);
        };
        let names = |tag| [filter.from, filter.to].contains(&Some(Height::Tag(tag)));
        let mut tagged = Tagged {
            latest: newest.latest(),
            ..Tagged::default()
        };
        if names(Tag::Safe) {
            tagged.safe = self.block_at_tag("safe", newest, deadline).await;
        }
        if names(Tag::Finalized) {
            tagged.finalized = self.block_at_tag("finalized", newest, deadline).await;
        }
        let asked = Asked::read(call, filter, tagged);
        let blocks_max = match &asked {
            Asked::Known(search) => search.blocks.count(),
            Asked::Other { blocks_max } => *blocks_max,
            Asked::Wrong => 0,
        };
        match blocks_max > self.config.logs_range_max {
            true => Err(ChainError::Invalid(
                "the range has too many blocks: ask for fewer at once",
            )),
            false => Ok(asked),
        }
    }

    /// The number of the block that a tag stands for. `None` if no provider tells it.
    async fn block_at_tag(
        self: &Rc<Self>,
        tag: &str,
        newest: Newest,
        deadline: Instant,
    ) -> Option<u64> {
        let call = Call::new("eth_getBlockByNumber", format!("[\"{tag}\",false]"));
        let method = Method::of(&call.method);
        let (call, reading) = self.reading(&Arc::new(call), method, newest);
        let answer = self.read(&call, method, reading, deadline).await;
        match answer.ok()?.outcome {
            Outcome::Result(text) => Some(Block::read(&text)?.number),
            Outcome::Error(_) => None,
        }
    }

    /// Sends a search as it is written, because only a provider knows which blocks these are, or what is wrong with it.
    async fn pass_on(
        &self,
        call: &Arc<Call>,
        asked: &Asked<'_>,
        newest: Newest,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        // A provider that is behind would not find all.
        let needs = Needs {
            head_min: newest.shown,
            ..Needs::default()
        };
        let method = Method::of(&call.method);
        let answer = async {
            match (self.quorum_of(&call.method), asked) {
                // Nodes refuse what is wrong in different words.
                (None, _) | (_, Asked::Wrong) => self.attempt(call, method, &needs, deadline).await,
                (Some(quorum), _) => self.agree(call, method, quorum, &needs, deadline).await,
            }
        };
        let answer = timeout_at(deadline, answer).await;
        Ok(answer.unwrap_or(Err(ChainError::Deadline))?.outcome)
    }

    /// Searches all parts, and adds what they have to `results`. When the first were sent, each further step has
    /// `step_within`. Returns the error of a provider that concerns the caller.
    async fn search(
        self: &Rc<Self>,
        search: &Search<'_>,
        mut deadline: Instant,
        step_within: Duration,
        results: &mut Results<'_>,
    ) -> Result<Option<Bytes>, ChainError> {
        let mut reorgs_seen = self.filters.borrow().reorgs().count();
        let step = Step::new(self.logs_blocks.get(), blocks_at_first(&self.config));
        let step = Cell::new(step);
        let mut left = VecDeque::from([Part::Unsearched(search.blocks)]);
        let mut searched_to = None;
        let mut at_once = AT_ONCE;
        while !left.is_empty() {
            // Logs of two branches are no answer. First what was searched before, then what is searched now.
            let mut is_reorganised = self.is_reorganised(&mut reorgs_seen, searched_to);
            let mut wave = Vec::new();
            while wave.len() < at_once
                && let Some(part) = left.pop_front()
            {
                wave.push(match part {
                    Part::Unsearched(blocks) => {
                        let (blocks, rest) = blocks.split_first(step.get().blocks);
                        if let Some(rest) = rest {
                            left.push_front(Part::Unsearched(rest));
                        }
                        searched_to = searched_to.max(Some(blocks.last));
                        Part::Unsearched(blocks)
                    }
                    found => found,
                });
            }
            let step = &step;
            let searched = wave.into_iter().map(|part| async move {
                match part {
                    Part::Unsearched(blocks) => {
                        self.search_part(search, blocks, step, deadline).await
                    }
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
                left = VecDeque::from([Part::Unsearched(search.blocks)]);
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
        let Step {
            refused,
            most_taken,
            ..
        } = step.get();
        // A search of few blocks that are crowded says nothing of others.
        let is_long = search.blocks.count() >= LONG_SEARCH;
        if (refused.is_some() && is_long) || most_taken > self.logs_blocks.get() {
            self.logs_blocks.set(most_taken.max(1));
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

    /// Searches a part: what was found, or its halves if that is too much for the providers. What was found before is used
    /// again as long as it holds.
    async fn search_part(
        self: &Rc<Self>,
        search: &Search<'_>,
        blocks: Blocks,
        step: &Cell<Step>,
        deadline: Instant,
    ) -> Result<Result<Vec<Part>, Unsearchable>, ChainError> {
        let call = Arc::new(Call {
            method: Arc::clone(&search.call.method),
            params: search.filter.over(blocks.first, blocks.last),
        });
        let needs = Needs {
            head_min: Some(blocks.last),
            names_known_block: true,
            ..Needs::default()
        };
        let method = Method::of(&call.method);
        let answer = match self.quorum_of(&call.method) {
            Some(quorum) => self.agree(&call, method, quorum, &needs, deadline).await,
            None => {
                let reading = Reading {
                    key: Key::of(&call.method, &call.params),
                    seen: None,
                    needs,
                };
                self.read(&call, method, reading, deadline).await
            }
        };
        let answer = match answer {
            Err(ChainError::Memory) => return Ok(Err(Unsearchable::Memory(blocks))),
            answer => answer?,
        };
        match answer.outcome {
            Outcome::Result(logs) => {
                step.update(|mut step| {
                    step.take(blocks.count());
                    step
                });
                Ok(Ok(vec![Part::Found(logs)]))
            }
            Outcome::Error(_) if answer.fault == Some(ErrorKind::Range) && blocks.count() > 1 => {
                metrics::split(&self.config.name);
                step.update(|mut step| {
                    step.refuse(blocks.count());
                    step
                });
                let halves = blocks.split(blocks.count().div_ceil(2));
                Ok(Ok(halves.map(Part::Unsearched).collect()))
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

impl Tagged {
    fn number(self, height: Height) -> Option<u64> {
        match height {
            Height::Number(number) => Some(number),
            Height::Tag(Tag::Earliest) => Some(0),
            Height::Tag(Tag::Latest) => self.latest,
            Height::Tag(Tag::Safe) => self.safe,
            Height::Tag(Tag::Finalized) => self.finalized,
            // Only a provider knows it.
            Height::Tag(Tag::Pending) => None,
        }
    }

    /// How many blocks there may be from one to another.
    fn blocks_max(self, from: Height, to: Height) -> u64 {
        let newest = |height| self.number(height).or(self.latest);
        let Some((first, last)) = newest(from).zip(newest(to)) else {
            return 0;
        };
        // There are none after the newest one.
        let last = last.min(self.latest.unwrap_or(u64::MAX));
        last.checked_sub(first)
            .map_or(0, |after| after.saturating_add(1))
    }
}

impl<'call> Asked<'call> {
    fn read(call: &'call Call, filter: LogFilter<'call>, tagged: Tagged) -> Self {
        let LogBlocks::Range { from, to } = filter.blocks() else {
            return Self::Other { blocks_max: 1 };
        };
        match tagged.number(from).zip(tagged.number(to)) {
            Some((first, last)) if first <= last && Some(last) <= tagged.latest => {
                Self::Known(Search {
                    call,
                    filter,
                    blocks: Blocks { first, last },
                })
            }
            _ => Self::Other {
                blocks_max: tagged.blocks_max(from, to),
            },
        }
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

    const TAGGED: Tagged = Tagged {
        latest: Some(100),
        safe: None,
        finalized: Some(50),
    };

    fn blocks_of(params: &str) -> Result<(u64, u64), u64> {
        let call = Call::new("eth_getLogs", params.to_owned());
        let filter = LogFilter::read(&call.params);
        match filter.map_or(Asked::Wrong, |filter| Asked::read(&call, filter, TAGGED)) {
            Asked::Known(Search { blocks, .. }) => Ok((blocks.first, blocks.last)),
            Asked::Other { blocks_max } => Err(blocks_max),
            Asked::Wrong => Err(0),
        }
    }

    #[test]
    fn ranges_are_read_as_clients_write_them() {
        for (params, expected) in [
            (r#"[{"fromBlock":"0x1","toBlock":"0xa"}]"#, Ok((1, 10))),
            (r#"[{"fromBlock":"0x1"}]"#, Ok((1, 100))),
            (
                r#"[{"fromBlock":"earliest","toBlock":"latest"}]"#,
                Ok((0, 100)),
            ),
            (r#"[{}]"#, Ok((100, 100))),
            (r#"[{"fromBlock":"0x5","toBlock":"0x5"}]"#, Ok((5, 5))),
            (
                r#"[{"fromBlock":"0x1","toBlock":"finalized"}]"#,
                Ok((1, 50)),
            ),
            // Not ranges, or not known here: what is said is how many blocks they may have.
            (r#"[{"fromBlock":"0x9","toBlock":"0x5"}]"#, Err(0)),
            (r#"[{"fromBlock":"0x1","toBlock":"0xffff"}]"#, Err(100)),
            (r#"[{"fromBlock":"0xfff","toBlock":"0xffff"}]"#, Err(0)),
            (r#"[{"fromBlock":"earliest","toBlock":"safe"}]"#, Err(101)),
            (r#"[{"fromBlock":"0x5b","toBlock":"pending"}]"#, Err(10)),
            (r#"[{"fromBlock":1,"toBlock":2}]"#, Err(0)),
            (r#"[{"fromBlock":"0x1","blockHash":"0x12"}]"#, Err(0)),
            // What a node would refuse, or read otherwise.
            (r#"[{"fromBlock":""}]"#, Err(0)),
            (r#"[{"fromBlock":"0x+1"}]"#, Err(0)),
            (r#"[{"FromBlock":"0x1"}]"#, Err(0)),
            (r#"[{"fromBlock":"0x1","fromBlock":"0x2"}]"#, Err(0)),
            (r#"[{},{}]"#, Err(0)),
            (r#"[]"#, Err(0)),
            ("", Err(0)),
        ] {
            assert_eq!(blocks_of(params), expected, "{params}");
        }
    }

    /// How many requests a search of so many blocks takes, of a provider that takes parts that `is_taken` says, and how many
    /// blocks it has taken at once.
    fn requests(blocks: u64, at_first: u64, is_taken: impl Fn(Blocks) -> bool) -> (u64, u64) {
        let mut step = Step::new(at_first, BLOCKS_AT_FIRST);
        let last = blocks - 1;
        let mut left = VecDeque::from([Blocks { first: 0, last }]);
        let mut requests = 0;
        while let Some(part) = left.pop_front() {
            let (part, rest) = part.split_first(step.blocks);
            if let Some(rest) = rest {
                left.push_front(rest);
            }
            requests += 1;
            if is_taken(part) {
                step.take(part.count());
            } else {
                step.refuse(part.count());
                let halves: Vec<_> = part.split(part.count().div_ceil(2)).collect();
                halves
                    .into_iter()
                    .rev()
                    .for_each(|half| left.push_front(half));
            }
        }
        (requests, step.most_taken)
    }

    #[test]
    fn parts_are_as_large_as_providers_take_them_and_small_only_where_they_must_be() {
        // A provider that searches up to 1,000 blocks at once.
        let is_short = |part: Blocks| part.count() <= 1000;
        let (first, taken) = requests(100_000, BLOCKS_AT_FIRST, is_short);
        assert!(first < 300 && taken > 500, "{first} {taken}");
        let (second, _) = requests(100_000, taken, is_short);
        assert!(second <= first, "{second}");
        // One block in the middle is crowded, and must be searched alone.
        let is_sparse =
            |part: Blocks| part.count() == 1 || !(part.first..=part.last).contains(&2500);
        let (crowded, _) = requests(5000, BLOCKS_AT_FIRST, is_sparse);
        assert!(crowded < 60, "{crowded}");
        // After a search of crowded blocks only.
        let (after, _) = requests(5000, 1, |_| true);
        assert!(after < 15, "{after}");
        let (whole, taken) = requests(5000, BLOCKS_AT_FIRST, |_| true);
        assert_eq!((whole, taken), (1, 5000));
    }

    #[test]
    fn members_are_those_between_the_brackets() {
        for (array, expected) in [("[]", ""), (" [ ] ", ""), ("[1, 2]", "1, 2"), ("null", "")] {
            assert_eq!(members(array.as_bytes()), expected.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn the_first_blocks_and_the_rest_are_all(first in any::<u64>(), count in 1..100_000u64, step in 0..5000u64) {
            let last = first.saturating_add(count - 1);
            let whole = Blocks { first, last };
            let (part, rest) = whole.split_first(step);
            prop_assert_eq!(part.first, first);
            prop_assert!(part.count() <= step.max(1));
            match rest {
                Some(rest) => prop_assert_eq!((part.last + 1, last), (rest.first, rest.last)),
                None => prop_assert_eq!(part, whole),
            }
        }

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
