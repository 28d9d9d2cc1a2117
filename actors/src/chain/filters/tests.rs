//! What a filter gives out, also across reorganisations, and its bounds.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::chain::block::Block;
use crate::chain::heads::HeadsConfig;
use crate::chain::provider::Head;
use crate::kernel::testing::buffers::FixedBuffers;

fn hash(number: u64, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    BlockHash::new(bytes)
}

/// The logs of a block: none, one or two.
fn logs(number: u64, branch: u8) -> Vec<String> {
    let count = (number + u64::from(branch)) % 3;
    let log = |index| {
        let hash = hash(number, branch);
        format!(
            "{{\"removed\":false,\"blockHash\":\"{hash}\",\"blockNumber\":\"0x{number:x}\",\"logIndex\":\"0x{index:x}\",\"data\":\"0x\"}}"
        )
    };
    (0..count).map(log).collect()
}

/// A chain with one provider, and its filters.
struct Chain {
    heads: Heads,
    filters: Filters,
    account: FixedBuffers,
    /// The branch of each block.
    branches: Vec<u8>,
    now: Instant,
}

impl Chain {
    /// A chain of so many blocks, none of which is final before there are 64 more.
    fn new(config: FiltersConfig, length: usize) -> Self {
        let heads = Heads::new(HeadsConfig {
            window: 256,
            finality_depth: 64,
            block_time: Duration::from_secs(12),
            lead_max: 3,
            stale_after: Duration::from_secs(240),
        });
        let (account, now) = (FixedBuffers::new(u64::MAX), Instant::now());
        let mut chain = Self {
            heads,
            filters: Filters::new(config, Arc::new(account.clone())),
            account,
            branches: vec![0],
            now,
        };
        (1..length).for_each(|_| chain.mine(0));
        chain
    }

    fn mine(&mut self, branch: u8) {
        self.branches.push(branch);
        let number = self.branches.len() as u64 - 1;
        let parent = self.branches[number as usize - 1];
        let block = Block {
            number,
            hash: hash(number, branch),
            parent: hash(number - 1, parent),
        };
        let head = Head {
            block,
            seen_at: self.now,
        };
        let change = self.heads.observe("a", &head);
        self.filters.follow(change);
    }

    /// Replaces the last `depth` blocks by as many and `more` of another branch.
    fn reorganise(&mut self, depth: usize, more: usize, branch: u8) {
        self.branches.truncate(self.branches.len() - depth);
        (0..depth + more).for_each(|_| self.mine(branch));
    }

    /// Asks for the blocks that are not known, as the owner of the filters does before a poll.
    fn fill(&mut self) {
        while let Some(missing) = self.heads.missing() {
            let number = missing.number;
            let at = |number: u64| hash(number, self.branches[number as usize]);
            let block = Block {
                number,
                hash: at(number),
                parent: at(number - 1),
            };
            let change = self.heads.fill(block);
            self.filters.follow(change);
        }
    }

    /// The answer of a provider to what `ask` asks for, as parsed parameters say.
    fn result(&self, params: &[u8]) -> String {
        let params: Value = serde_json::from_slice(params).unwrap();
        let number = |name: &str| quantity_of(&params[0][name]);
        let blocks = number("fromBlock")..=number("toBlock").min(self.branches.len() as u64 - 1);
        let logs: Vec<_> = blocks
            .flat_map(|number| logs(number, self.branches[number as usize]))
            .collect();
        format!("[{}]", logs.join(","))
    }

    /// Asserts that the memory of the filters is that of the account, and in use.
    fn check_memory(&self) {
        let bytes = self.filters.bytes;
        assert_eq!((self.account.held(), self.account.filled()), (bytes, bytes));
    }

    /// One whole poll.
    fn poll(&mut self, id: FilterId) -> Vec<Value> {
        let answer = match self.filters.changes(id, &self.heads, self.now).unwrap() {
            Ask::Nothing(answer) => answer,
            Ask::Logs { poll, params } => {
                let result = self.result(&params);
                match self
                    .filters
                    .finish(&poll, result.as_bytes(), &self.heads, self.now)
                    .unwrap()
                {
                    Finished::Answer(answer) => answer,
                    Finished::Again => panic!("nothing has changed"),
                }
            }
            other @ (Ask::Hashes { .. } | Ask::Pending { .. }) => panic!("{other:?}"),
        };
        let parsed = serde_json::from_slice(&answer).unwrap();
        let held = self.account.held();
        assert_eq!(held, self.filters.bytes + answer.len() as u64);
        drop(answer);
        self.check_memory();
        parsed
    }
}

fn quantity_of(value: &Value) -> u64 {
    crate::chain::hex::quantity(value.as_str().unwrap()).unwrap()
}

fn caller() -> Arc<str> {
    "10.0.0.1".into()
}

fn new_logs(chain: &mut Chain, params: &str) -> Result<FilterId, FilterError> {
    chain
        .filters
        .new_logs(&caller(), params.as_bytes(), &chain.heads, chain.now)
}

/// The number, whether it is removed, and the branch of each log.
fn short(answer: &[Value]) -> Vec<(u64, bool)> {
    answer
        .iter()
        .map(|log| {
            (
                quantity_of(&log["blockNumber"]),
                log["removed"].as_bool().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_filter_of_logs_gives_what_is_new_since_it_was_made() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    assert_eq!(chain.poll(id), Vec::<Value>::new());
    // 11 has two logs, 12 none, 13 one.
    (0..3).for_each(|_| chain.mine(0));
    assert_eq!(
        short(&chain.poll(id)),
        [(11, false), (11, false), (13, false)]
    );
    assert_eq!(chain.poll(id), Vec::<Value>::new());
    assert!(chain.filters.uninstall(id) && !chain.filters.uninstall(id));
    let gone = chain.filters.changes(id, &chain.heads, chain.now);
    assert_eq!(gone.err(), Some(FilterError::NotFound));
    assert_eq!((chain.filters.bytes, chain.filters.callers.len()), (0, 0));
    chain.check_memory();
}

#[test]
fn without_memory_there_is_no_filter_and_no_answer_and_nothing_is_lost() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    (0..3).for_each(|_| chain.mine(0));
    let held = chain.account.held();
    // For the copies of what was found, but not for the answer too.
    for more in [100, 700] {
        chain.account.set_max(held + more);
        let Ok(Ask::Logs { poll, params }) = chain.filters.changes(id, &chain.heads, chain.now)
        else {
            panic!("there are new blocks");
        };
        let result = chain.result(&params);
        let finished = chain
            .filters
            .finish(&poll, result.as_bytes(), &chain.heads, chain.now);
        assert_eq!(finished, Err(FilterError::Memory), "{}", result.len());
        assert_eq!(chain.account.held(), held);
    }
    chain.account.set_max(held);
    assert_eq!(new_logs(&mut chain, "[{}]"), Err(FilterError::Memory));
    assert_eq!(
        (chain.filters.len(), chain.filters.callers[&caller()]),
        (1, 1)
    );
    chain.account.set_max(u64::MAX);
    assert_eq!(chain.poll(id).len(), 3);
    // What it would have to remember, it forgets.
    chain.mine(0);
    chain.mine(0);
    let held = chain.account.held();
    let Ok(Ask::Logs { poll, params }) = chain.filters.changes(id, &chain.heads, chain.now) else {
        panic!("there are new blocks");
    };
    let result = chain.result(&params);
    chain.account.set_max(held + 2 * result.len() as u64 + 1000);
    let finished = chain
        .filters
        .finish(&poll, result.as_bytes(), &chain.heads, chain.now);
    let Ok(Finished::Answer(answer)) = finished else {
        panic!("{finished:?}");
    };
    assert_eq!(
        short(&serde_json::from_slice::<Vec<_>>(&answer).unwrap()).len(),
        2
    );
    drop(answer);
    chain.check_memory();
}

#[test]
fn logs_of_replaced_blocks_are_taken_back_newest_first() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    (0..3).for_each(|_| chain.mine(0));
    chain.poll(id);
    // In their place 11 has none, 12 one, 13 two.
    chain.reorganise(3, 0, 1);
    let answer = chain.poll(id);
    let expected = [
        (13, true),
        (11, true),
        (11, true),
        (12, false),
        (13, false),
        (13, false),
    ];
    assert_eq!(short(&answer), expected);
    assert_eq!(answer[0]["data"], "0x");
    assert_eq!(chain.poll(id), Vec::<Value>::new());
}

#[test]
fn what_is_as_it_was_is_not_repeated_where_the_depth_is_unknown() {
    let mut chain = Chain::new(FiltersConfig::default(), 91);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    (0..8).for_each(|_| chain.mine(0));
    // 97 has one log, 98 two.
    assert_eq!(chain.poll(id).len(), 9);
    // Only the last one of two new blocks is told: all that is not final may be wrong.
    chain.branches.truncate(97);
    chain.branches.push(1);
    chain.mine(1);
    assert!(chain.filters.reorgs.lowest_since(0) < Some(90));
    chain.fill();
    // In their place, 97 has two and 98 none.
    let expected = [(98, true), (98, true), (97, true), (97, false), (97, false)];
    assert_eq!(short(&chain.poll(id)), expected);
}

#[test]
fn blocks_from_before_the_filter_that_come_back_end_those_in_their_place() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    // 9 has one log now, 10 has two.
    chain.reorganise(2, 0, 1);
    assert_eq!(
        short(&chain.poll(id)),
        [(9, false), (10, false), (10, false)]
    );
    chain.reorganise(2, 1, 0);
    let gone = [(10, true), (10, true), (9, true)];
    let new = [(10, false), (11, false), (11, false)];
    assert_eq!(short(&chain.poll(id)), [gone, new].concat());
}

#[test]
fn a_filter_keeps_to_its_range() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, r#"[{"fromBlock":"0xd","toBlock":"0xe"}]"#).unwrap();
    (0..10).for_each(|_| chain.mine(0));
    assert_eq!(
        short(&chain.poll(id)),
        [(13, false), (14, false), (14, false)]
    );
    assert_eq!(chain.poll(id), Vec::<Value>::new());
    for wrong in [
        "[]",
        r#"[{"fromBlock":"0xe","toBlock":"0xd"}]"#,
        r#"[{"fromBlock":"pending"}]"#,
        r#"[{"address":"0x1"}]"#,
        &format!(r#"[{{"blockHash":"{}"}}]"#, hash(1, 1)),
        &format!("[{{\"topics\":[{}null]}}]", "null,".repeat(9000)),
    ] {
        assert_eq!(
            new_logs(&mut chain, wrong),
            Err(FilterError::Malformed),
            "{wrong:.60}"
        );
    }
    let text = r#"[ {"fromBlock":"0xd","toBlock":"0xe"}]"#;
    let id = new_logs(&mut chain, text).unwrap();
    assert_eq!(chain.filters.logs(id, chain.now), Ok(text.into()));
}

#[test]
fn a_filter_of_blocks_gives_the_hashes_of_new_blocks() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = chain
        .filters
        .new_blocks(&caller(), &chain.heads, chain.now)
        .unwrap();
    (0..2).for_each(|_| chain.mine(0));
    let text = |number, branch| Value::from(hash(number, branch).to_string());
    assert_eq!(chain.poll(id), [text(11, 0), text(12, 0)]);
    chain.reorganise(1, 1, 1);
    assert_eq!(chain.poll(id), [text(12, 1), text(13, 1)]);
    assert_eq!(chain.poll(id), Vec::<Value>::new());
    assert_eq!(
        chain.filters.logs(id, chain.now),
        Err(FilterError::NotFound)
    );
}

#[test]
fn a_filter_of_pending_transactions_goes_on_from_number_to_number() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let memory = chain.account.reserve(0).unwrap();
    let wanted = Rc::new(Wanted::new(memory));
    let made = chain
        .filters
        .new_pending(&caller(), Rc::clone(&wanted), 7, chain.now);
    let id = made.unwrap();
    for next in [7, 7, 9] {
        chain.filters.finish_pending(id, next);
        let asked = chain.filters.changes(id, &chain.heads, chain.now);
        assert!(
            matches!(asked, Ok(Ask::Pending { next: it }) if it == next),
            "{asked:?}"
        );
    }
    let logs = chain.filters.logs(id, chain.now);
    assert_eq!(logs, Err(FilterError::NotFound));
    chain.check_memory();
    chain.filters.sweep(chain.now + Duration::from_secs(300));
    assert_eq!((chain.filters.len(), Rc::strong_count(&wanted)), (0, 1));
}

#[test]
fn the_hashes_that_are_not_known_are_asked_for() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = chain
        .filters
        .new_blocks(&caller(), &chain.heads, chain.now)
        .unwrap();
    chain.branches.extend([0, 0, 0]);
    chain.mine(0);
    let Ok(Ask::Hashes { poll }) = chain.filters.changes(id, &chain.heads, chain.now) else {
        panic!("11 and 12 are unknown");
    };
    assert_eq!((poll.from, poll.to), (11, 14));
    let hashes: Vec<_> = (11..=14).map(|number| hash(number, 0)).collect();
    let mut finish = |hashes: &[BlockHash]| {
        chain
            .filters
            .finish_hashes(&poll, hashes, &chain.heads, chain.now)
    };
    assert_eq!(finish(&hashes[1..]), Ok(Finished::Again));
    let wrong: Vec<_> = (11..=14).map(|number| hash(number, 1)).collect();
    assert_eq!(
        finish(&wrong),
        Ok(Finished::Again),
        "14 is known to be another"
    );
    assert!(matches!(finish(&hashes), Ok(Finished::Answer(answer)) if answer.len() == 4 * 69 + 1));
}

#[test]
fn a_poll_during_which_something_changes_is_repeated() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    chain.mine(0);
    let ask = |chain: &mut Chain| match chain.filters.changes(id, &chain.heads, chain.now) {
        Ok(Ask::Logs { poll, params }) => (poll, chain.result(&params)),
        other => panic!("{other:?}"),
    };
    let (poll, result) = ask(&mut chain);
    let finish = |chain: &mut Chain, poll: &Poll, result: &str| {
        let finished = chain
            .filters
            .finish(poll, result.as_bytes(), &chain.heads, chain.now);
        !matches!(finished, Ok(Finished::Again))
    };
    for wrong in [
        "null",
        "[1]",
        "{}",
        &format!("[{}]", logs(11, 3)[0]),
        &format!("[{}]", logs(10, 0)[0]),
    ] {
        assert!(!finish(&mut chain, &poll, wrong), "{wrong}");
    }
    chain.reorganise(1, 0, 3);
    assert!(
        !finish(&mut chain, &poll, &result),
        "the block was replaced meanwhile"
    );
    let (poll, result) = ask(&mut chain);
    let (other, _) = ask(&mut chain);
    assert!(finish(&mut chain, &poll, &result));
    assert!(
        !finish(&mut chain, &other, &result),
        "it was polled meanwhile"
    );
    assert_eq!(chain.poll(id), Vec::<Value>::new());
}

#[test]
fn the_number_of_filters_and_their_bytes_are_bounded() {
    let config = FiltersConfig {
        count_max: 3,
        caller_max: 2,
        ..FiltersConfig::default()
    };
    let mut chain = Chain::new(config, 11);
    let add = |chain: &mut Chain, caller: &str| {
        chain
            .filters
            .new_blocks(&caller.into(), &chain.heads, chain.now)
            .map(|_| ())
    };
    assert_eq!(add(&mut chain, "a"), Ok(()));
    assert_eq!(add(&mut chain, "a"), Ok(()));
    assert_eq!(add(&mut chain, "a"), Err(FilterError::TooMany));
    assert_eq!(add(&mut chain, "b"), Ok(()));
    assert_eq!(add(&mut chain, "c"), Err(FilterError::TooMany));
    chain.now += Duration::from_secs(300);
    assert_eq!(add(&mut chain, "c"), Ok(()), "nobody polls the others");
    assert_eq!(chain.filters.len(), 1);
    let mut chain = Chain::new(
        FiltersConfig {
            bytes_max: 1000,
            ..FiltersConfig::default()
        },
        11,
    );
    let made = (0..100)
        .take_while(|_| add(&mut chain, "a").is_ok())
        .count();
    assert!(
        (1..10).contains(&made) && chain.filters.bytes <= 1000,
        "{made}"
    );
    assert_eq!(
        Filters::new(FiltersConfig::default(), Arc::new(chain.account.clone()))
            .new_blocks(
                &caller(),
                &Heads::new(HeadsConfig {
                    window: 1,
                    finality_depth: 1,
                    block_time: Duration::ZERO,
                    lead_max: 1,
                    stale_after: Duration::ZERO,
                }),
                chain.now
            )
            .err(),
        Some(FilterError::NoHead)
    );
}

#[test]
fn a_filter_ends_when_nobody_polls_it() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    for _ in 0..3 {
        chain.now += Duration::from_secs(299);
        chain.poll(id);
    }
    chain.now += Duration::from_secs(300);
    let gone = chain.filters.changes(id, &chain.heads, chain.now);
    assert_eq!(gone.err(), Some(FilterError::NotFound));
    assert!(chain.filters.is_empty() && chain.filters.bytes == 0);
}

#[test]
fn a_poll_searches_a_bounded_number_of_blocks_and_the_next_one_goes_on() {
    let config = FiltersConfig {
        blocks_max: 3,
        delivered_max: 700,
        ..FiltersConfig::default()
    };
    let mut chain = Chain::new(config, 11);
    let id = new_logs(&mut chain, "[{}]").unwrap();
    (0..7).for_each(|_| chain.mine(0));
    assert_eq!(
        short(&chain.poll(id)),
        [(11, false), (11, false), (13, false)]
    );
    assert_eq!(
        short(&chain.poll(id)),
        [(14, false), (14, false), (16, false)]
    );
    assert_eq!(short(&chain.poll(id)), [(17, false), (17, false)]);
    let filter = chain.filters.filters.get_mut(&id).unwrap();
    let delivered = filter.place().unwrap().delivered.bytes();
    assert!(delivered > 0 && delivered <= 700, "{delivered}");
}

#[test]
fn ids_differ_and_are_read_as_they_are_written() {
    let mut chain = Chain::new(FiltersConfig::default(), 11);
    let ids: BTreeSet<_> = (0..50)
        .map(|_| new_logs(&mut chain, "[{}]").unwrap().to_string())
        .collect();
    assert_eq!(ids.len(), 50);
    assert!(
        ids.iter()
            .all(|id| id.len() > 26 && FilterId::parse(id).unwrap().to_string() == *id)
    );
    for wrong in ["", "0x", "1", "0x+1", &format!("0x{}", "f".repeat(33))] {
        assert_eq!(FilterId::parse(wrong), None, "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    /// A consumer that adds what is new and takes back what is removed has the logs of the chain in the end.
    #[test]
    fn a_consumer_ends_with_the_logs_of_the_chain(
        steps in proptest::collection::vec((0..6_u8, 1..20_usize, 0..4_usize), 0..60),
        blocks_max in 1..30_u64,
    ) {
        let config = FiltersConfig { blocks_max, ..FiltersConfig::default() };
        let mut chain = Chain::new(config, 31);
        let made_at = chain.branches.clone();
        let id = new_logs(&mut chain, "[{}]").unwrap();
        let mut consumed = BTreeSet::new();
        let mut branch = 0;
        let consume = |consumed: &mut BTreeSet<(u64, String, String)>, answer: Vec<Value>| {
            for log in answer {
                let text = |name: &str| log[name].as_str().unwrap().to_owned();
                let key = (quantity_of(&log["blockNumber"]), text("blockHash"), text("logIndex"));
                match log["removed"].as_bool().unwrap() {
                    true => assert!(consumed.remove(&key), "{key:?} was not given out"),
                    false => assert!(consumed.insert(key.clone()), "{key:?} twice"),
                }
            }
        };
        for (step, depth, more) in steps {
            match step {
                0 | 1 => (0..more).for_each(|_| chain.mine(branch)),
                2 => {
                    branch += 1;
                    chain.reorganise(depth, more, branch);
                }
                3 => {
                    // Cancelled after the first half, or too late with the second.
                    if let Ok(Ask::Logs { poll, params }) = chain.filters.changes(id, &chain.heads, chain.now) {
                        let result = chain.result(&params);
                        branch += 1;
                        chain.reorganise(depth, more, branch);
                        let finished = chain.filters.finish(&poll, result.as_bytes(), &chain.heads, chain.now);
                        if let Ok(Finished::Answer(answer)) = finished {
                            consume(&mut consumed, serde_json::from_slice(&answer).unwrap());
                        }
                    }
                }
                _ => {
                    let answer = chain.poll(id);
                    consume(&mut consumed, answer);
                }
            }
        }
        for _ in 0..300 {
            let answer = chain.poll(id);
            consume(&mut consumed, answer);
        }
        let is_new = |number: &usize| made_at.get(*number) != Some(&chain.branches[*number]);
        let blocks = (0..chain.branches.len()).filter(is_new);
        let expected: BTreeSet<_> = blocks
            .flat_map(|number| logs(number as u64, chain.branches[number]))
            .map(|log| {
                let log: Value = serde_json::from_str(&log).unwrap();
                let text = |name: &str| log[name].as_str().unwrap().to_owned();
                (quantity_of(&log["blockNumber"]), text("blockHash"), text("logIndex"))
            })
            .collect();
        prop_assert_eq!(consumed, expected);
    }
}
