//! What the cache keeps, gives out and removes.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::chain::block::Block;
use crate::chain::heads::HeadsConfig;
use crate::chain::hex::BlockHash;
use crate::chain::provider::Head;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::kernel::testing::counters::Counters;

const EVER: Keep = Keep {
    hold: Hold::Ever,
    block: None,
};

fn key(number: u64) -> Key {
    Key::of("eth_call", format!("[{number}]").as_bytes()).unwrap()
}

fn chain() -> Arc<str> {
    "test".into()
}

fn cache(bytes_max: u64, account: &FixedBuffers) -> Cache {
    let config = CacheConfig::new(bytes_max, Duration::from_secs(12));
    Cache::new(&chain(), config, Arc::new(account.clone()))
}

fn heads() -> Heads {
    Heads::new(HeadsConfig {
        window: 256,
        finality_depth: 64,
        block_time: Duration::from_secs(12),
        lead_max: 3,
        stale_after: Duration::from_secs(240),
    })
}

fn hash(number: u64, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    BlockHash::new(bytes)
}

fn tell(heads: &mut Heads, provider: &str, number: u64, branch: u8, parent: u8) -> Change {
    let block = Block {
        number,
        hash: hash(number, branch),
        parent: hash(number - 1, parent),
    };
    let head = Head {
        block,
        seen_at: Instant::now(),
    };
    heads.observe(provider, &head)
}

/// A chain with the blocks 900 to 1000, of which those to 936 are final, as `a` and `b` have it. `late` is behind.
fn grown() -> Heads {
    let mut heads = heads();
    for number in 900..=1000 {
        tell(&mut heads, "a", number, 0, 0);
    }
    tell(&mut heads, "b", 1000, 0, 0);
    tell(&mut heads, "late", 930, 0, 0);
    heads
}

struct Kept {
    cache: Cache,
    now: Instant,
}

impl Kept {
    fn insert(&mut self, number: u64, keep: Keep) -> bool {
        let mark = self.cache.mark();
        self.cache.insert(
            key(number),
            &Bytes::from(vec![b'1'; 100]),
            keep,
            mark,
            self.now,
        )
    }

    fn has(&mut self, number: u64) -> bool {
        self.cache.get(&key(number), self.now).is_some()
    }
}

fn kept(bytes_max: u64) -> (Kept, FixedBuffers) {
    let account = FixedBuffers::new(u64::MAX);
    let (cache, now) = (cache(bytes_max, &account), Instant::now());
    (Kept { cache, now }, account)
}

#[test]
fn an_answer_is_given_out_as_long_as_it_holds() {
    let (mut kept, _) = kept(1 << 20);
    let heads = grown();
    let at = |hold, block| Keep {
        hold,
        block: Some(block),
    };
    assert!(kept.insert(1, EVER));
    assert!(kept.insert(
        2,
        Keep {
            hold: Hold::Head,
            block: None
        }
    ));
    assert!(kept.insert(3, at(Hold::Block, 990)));
    assert!(kept.insert(4, at(Hold::Block, 991)));
    assert!(kept.insert(5, at(Hold::Ever, 20)));
    assert!(kept.insert(
        6,
        Keep {
            hold: Hold::For(Duration::from_secs(5)),
            block: None
        }
    ));
    assert!((1..=6).all(|number| kept.has(number)));
    kept.now += Duration::from_secs(5);
    assert!(kept.has(2) && !kept.has(6), "its time is over");
    kept.cache.follow(Change::Nothing, &heads);
    assert!(kept.has(2));
    kept.cache.follow(Change::Extended { from: 1001 }, &heads);
    assert!(!kept.has(2), "there is a new head");
    assert!([1, 3, 4, 5].into_iter().all(|number| kept.has(number)));
    kept.cache.follow(Change::Reorganised { from: 991 }, &heads);
    assert!(kept.has(3) && !kept.has(4), "its block is gone");
    kept.cache.follow(Change::Gap { from: 1002 }, &heads);
    assert!(!kept.has(3), "its block may be gone");
    assert!(kept.has(5), "but it is final");
    kept.cache.follow(Change::Reorganised { from: 20 }, &heads);
    assert!(
        !kept.has(5),
        "also a final block, if it is replaced after all"
    );
    assert!(kept.has(1) && kept.cache.len() == 1);
}

#[test]
fn an_answer_until_the_next_head_ends_also_if_heads_stop() {
    let (mut kept, _) = kept(1 << 20);
    assert!(kept.insert(
        1,
        Keep {
            hold: Hold::Head,
            block: None
        }
    ));
    kept.now += Duration::from_secs(24);
    assert!(!kept.has(1));
}

#[test]
fn an_answer_to_a_call_from_before_a_change_is_not_kept() {
    let (mut kept, _) = kept(1 << 20);
    let heads = grown();
    let answer = Bytes::from_static(b"1");
    let mark = kept.cache.mark();
    kept.cache.follow(Change::Reorganised { from: 990 }, &heads);
    let now = kept.now;
    let mut insert = |hold, block| {
        kept.cache
            .insert(key(1), &answer, Keep { hold, block }, mark, now)
    };
    assert!(!insert(Hold::Head, None));
    assert!(!insert(Hold::Block, Some(990)));
    assert!(insert(Hold::Block, Some(989)));
}

#[test]
fn the_bytes_are_bounded_and_belong_to_the_account() {
    let (mut kept, account) = kept(10_000);
    for number in 0..1000 {
        assert!(kept.insert(number, EVER));
        assert!(kept.cache.bytes() <= 10_000);
        assert_eq!(
            (account.held(), account.filled()),
            (kept.cache.bytes(), kept.cache.bytes())
        );
    }
    assert_eq!(kept.cache.len(), 23);
    let mark = kept.cache.mark();
    let large = Bytes::from(vec![0; 1251]);
    assert!(
        !kept.cache.insert(key(1), &large, EVER, mark, kept.now),
        "an eighth is the most"
    );
    // What a caller still has keeps its memory.
    let number = (0..1000).find(|number| kept.has(*number)).unwrap();
    let answer = kept.cache.get(&key(number), kept.now);
    assert!(kept.cache.shrink(0, 1000) && kept.cache.is_empty());
    assert_eq!(account.held(), 420);
    drop(answer);
    assert_eq!(account.held(), 0);
}

#[test]
fn a_budget_that_grants_nothing_costs_some_answers_and_no_more() {
    let (mut kept, account) = kept(1 << 20);
    for number in 0..100 {
        assert!(kept.insert(number, EVER));
    }
    account.set_max(account.held());
    assert!(kept.insert(100, EVER));
    assert_eq!(kept.cache.len(), 100);
    account.set_max(0);
    assert!(!kept.insert(101, EVER));
    assert_eq!(kept.cache.len(), 99, "one made room, in vain");
}

#[test]
fn memory_is_given_back_by_the_level_in_small_steps() {
    let (mut kept, account) = kept(100_000);
    for number in 0..300 {
        kept.insert(number, EVER);
    }
    let before = kept.cache.bytes();
    let pressure = |level, max_stage, wanted_bytes| Pressure {
        level,
        max_stage,
        wanted_bytes,
        ..Pressure::default()
    };
    let asked = pressure(Level::Normal, Some(Stage::Caches), 4200);
    let target = kept.cache.follow_pressure(asked);
    assert_eq!(target, before - 4200);
    assert!(!kept.cache.shrink(target, 5), "five at a time");
    assert!(kept.cache.shrink(target, 5) && kept.cache.bytes() == target);
    let not_asked = pressure(Level::Elevated, Some(Stage::Slack), 4200);
    assert_eq!(kept.cache.follow_pressure(not_asked), 50_000);
    assert_eq!(
        kept.cache.follow_pressure(pressure(Level::High, None, 0)),
        25_000
    );
    assert!(kept.cache.shrink(25_000, 10_000));
    assert!(
        kept.insert(1000, EVER) && kept.cache.bytes() <= 25_000,
        "the bound stays"
    );
    assert_eq!(
        kept.cache
            .follow_pressure(pressure(Level::Critical, None, 0)),
        0
    );
    assert!(kept.cache.shrink(0, 10_000) && account.held() == 0);
    assert!(!kept.insert(1, EVER));
    kept.cache.follow_pressure(Pressure::default());
    assert!(kept.insert(1, EVER));
}

#[test]
fn a_scan_does_not_displace_what_is_used() {
    let (mut kept, _) = kept(420 * 100);
    for _ in 0..3 {
        for number in 0..50 {
            if !kept.has(number) {
                kept.insert(number, EVER);
            }
        }
    }
    for number in 1000..6000 {
        kept.insert(number, EVER);
    }
    assert_eq!((0..50).filter(|number| kept.has(*number)).count(), 50);
}

#[test]
fn an_answer_that_comes_back_stays_longer() {
    let (mut kept, _) = kept(420 * 100);
    for number in 0..150 {
        kept.insert(number, EVER);
    }
    assert!(!kept.has(45), "it has left the small queue");
    kept.insert(45, EVER);
    for number in 1000..1300 {
        kept.insert(number, EVER);
    }
    assert!(kept.has(45));
}

#[test]
fn hits_misses_removals_and_reorganisations_are_counted() {
    let counters = Counters::of(METRICS);
    ::metrics::with_local_recorder(&counters, || {
        let (mut kept, _) = kept(420 * 10);
        for number in 0..11 {
            kept.insert(number, EVER);
        }
        assert!(kept.has(10) && !kept.has(11));
        kept.insert(
            10,
            Keep {
                hold: Hold::Block,
                block: Some(3),
            },
        );
        kept.cache.follow(Change::Reorganised { from: 3 }, &heads());
        assert!(!kept.has(10));
        shared_calls(&chain()).increment(1);
    });
    assert_eq!(counters.get("headroom_chain_cache_hits_total"), 1);
    assert_eq!(counters.get("headroom_chain_cache_misses_total"), 2);
    assert_eq!(counters.get("headroom_chain_cache_evictions_total"), 3);
    assert_eq!(counters.get("headroom_chain_reorganisations_total"), 1);
    let declared = METRICS.iter().map(|metric| metric.name.to_owned());
    assert_eq!(counters.names(), declared.collect());
}

fn decide(method: &str, params: &str, result: &str) -> Option<Keep> {
    keep(method, params.as_bytes(), result.as_bytes(), "a", &grown())
}

fn ever(block: u64) -> Option<Keep> {
    Some(Keep {
        hold: Hold::Ever,
        block: Some(block),
    })
}

fn with_block(block: u64) -> Option<Keep> {
    Some(Keep {
        hold: Hold::Block,
        block: Some(block),
    })
}

const HEAD: Option<Keep> = Some(Keep {
    hold: Hold::Head,
    block: None,
});

#[test]
fn what_depends_on_a_block_is_kept_by_this_block() {
    let state = |block: &str| decide("eth_getBalance", &format!("[\"0xab\",{block}]"), "\"0x0\"");
    // 936 is final.
    assert_eq!(state("\"0x3a8\""), ever(936));
    assert_eq!(state("\"0x3a9\""), with_block(937));
    assert_eq!(state("\"0x3e8\""), with_block(1000));
    assert_eq!(state("\"0x3e9\""), None, "a block after the head");
    assert_eq!(state("\"earliest\""), ever(0));
    assert_eq!(state("{\"blockNumber\":\"0x3e8\"}"), with_block(1000));
    let by_hash = |canonical| {
        format!(
            "{{\"blockHash\":\"{}\",\"requireCanonical\":{canonical}}}",
            hash(1, 2)
        )
    };
    assert_eq!(state(&by_hash(false)), Some(EVER));
    assert_eq!(state(&by_hash(true)), HEAD);
    assert_eq!(decide("eth_getBalance", "[\"0xab\"]", "\"0x0\""), HEAD);
    for tag in ["latest", "safe", "finalized"] {
        assert_eq!(state(&format!("\"{tag}\"")), HEAD, "{tag}");
    }
    for never in ["\"pending\"", "null", "1", "\"0x01\""] {
        assert_eq!(state(never), None, "{never}");
    }
}

#[test]
fn what_depends_on_nothing_or_on_the_head_is_kept_so() {
    assert_eq!(decide("eth_chainId", "", "\"0x1\""), Some(EVER));
    assert_eq!(decide("eth_gasPrice", "[]", "\"0x1\""), HEAD);
    for never in [
        "web3_clientVersion",
        "eth_sendRawTransaction",
        "eth_newBlockFilter",
        "foo_bar",
    ] {
        assert_eq!(decide(never, "[]", "\"0x1\""), None, "{never}");
    }
}

#[test]
fn null_and_empty_results_are_not_kept_past_the_final_block() {
    for method in [
        "eth_getTransactionReceipt",
        "eth_getTransactionByHash",
        "eth_getBlockByHash",
    ] {
        assert_eq!(decide(method, "[\"0xab\"]", "null"), None, "{method}");
    }
    assert_eq!(
        decide("eth_getBlockByNumber", "[\"0x1\",false]", " null "),
        None
    );
    assert_eq!(
        decide("eth_getRawTransactionByHash", "[\"0xab\"]", "\"0x\""),
        None
    );
    assert_eq!(
        decide("eth_getRawTransactionByHash", "[\"0xab\"]", "\"0x12\""),
        Some(EVER)
    );
    let logs = |from: u64, to: u64, result| {
        let params = format!("[{{\"fromBlock\":\"0x{from:x}\",\"toBlock\":\"0x{to:x}\"}}]");
        decide("eth_getLogs", &params, result)
    };
    assert_eq!(logs(10, 936, "[ ]"), ever(936));
    assert_eq!(logs(10, 937, "[]"), None);
    assert_eq!(logs(10, 936, "[{}]"), ever(936));
    assert_eq!(logs(10, 937, "[{}]"), None);
    assert_eq!(logs(10, 1001, "[{}]"), None);
    assert_eq!(logs(11, 10, "[]"), None);
    assert_eq!(
        decide("eth_getLogs", "[{\"fromBlock\":\"0x1\"}]", "[{}]"),
        None,
        "up to a block that moves"
    );
    let of_block = format!("[{{\"blockHash\":\"{}\"}}]", hash(1, 1));
    assert_eq!(decide("eth_getLogs", &of_block, "[{}]"), Some(EVER));
    assert_eq!(decide("eth_getLogs", &of_block, "[]"), None);
    assert_eq!(decide("eth_getBlockReceipts", "[\"0x3e8\"]", "[]"), None);
}

#[test]
fn results_that_tell_their_block_are_checked_against_the_chain() {
    let receipt = |number: u64, branch| {
        let hash = hash(number, branch);
        let text = format!(
            "{{\"a\":[{{\"blockNumber\":\"0x1\"}}],\"blockHash\":\"{hash}\",\"blockNumber\":\"0x{number:x}\",\"b\":1}}"
        );
        decide("eth_getTransactionReceipt", "[\"0xab\"]", &text)
    };
    assert_eq!(receipt(1000, 0), with_block(1000));
    assert_eq!(receipt(936, 0), ever(936));
    assert_eq!(receipt(1000, 1), None, "of another branch");
    assert_eq!(receipt(1001, 0), None, "not known yet");
    assert_eq!(receipt(5, 0), ever(5));
    let pending = "{\"blockHash\":null,\"blockNumber\":null}";
    assert_eq!(
        decide("eth_getTransactionByHash", "[\"0xab\"]", pending),
        None
    );
    assert_eq!(decide("debug_traceTransaction", "[\"0xab\"]", "{}"), HEAD);
    let block = |number: u64, told: u64, branch| {
        let text = format!(
            "{{\"hash\":\"{}\",\"number\":\"0x{told:x}\",\"z\":",
            hash(told, branch)
        );
        // The rest is not read, so it may be long.
        decide(
            "eth_getBlockByNumber",
            &format!("[\"0x{number:x}\",true]"),
            &text,
        )
    };
    assert_eq!(block(1000, 1000, 0), with_block(1000));
    assert_eq!(block(1000, 1000, 1), None);
    assert_eq!(block(1000, 999, 0), None);
    assert_eq!(block(20, 20, 7), ever(20));
    assert_eq!(block(20, 21, 7), None, "another block than was asked for");
}

#[test]
fn an_answer_of_a_provider_without_the_block_is_not_kept() {
    let mut heads = grown();
    let by = |heads: &Heads, provider, method, params: &str| {
        keep(method, params.as_bytes(), b"[]", provider, heads)
    };
    let logs = "[{\"fromBlock\":\"0x1\",\"toBlock\":\"0x3a5\"}]";
    assert_eq!(by(&heads, "b", "eth_getLogs", logs), ever(933));
    assert_eq!(
        by(&heads, "late", "eth_getLogs", logs),
        None,
        "it has 930 blocks"
    );
    assert_eq!(by(&heads, "late", "eth_gasPrice", "[]"), None);
    assert_eq!(by(&heads, "nobody", "eth_getLogs", logs), None);
    assert_eq!(by(&heads, "late", "eth_chainId", "[]"), Some(EVER));
    // a has blocks that are not agreed on.
    assert_eq!(tell(&mut heads, "a", 1010, 0, 0), Change::Nothing);
    let call = keep("eth_call", b"[{},\"0x3ed\"]", b"\"0x\"", "a", &heads);
    assert_eq!(call, None);
    tell(&mut heads, "a", 1000, 0, 0);
    // b goes over to a branch that does not count.
    tell(&mut heads, "b", 1000, 1, 0);
    assert_eq!(by(&heads, "b", "eth_call", "[{},\"0x3e7\"]"), None);
    assert_eq!(by(&heads, "a", "eth_call", "[{},\"0x3a0\"]"), ever(928));
}

#[test]
fn a_block_whose_replacement_would_go_unnoticed_is_kept_until_the_next_head() {
    let mut heads = grown();
    let block = Block {
        number: 1003,
        hash: hash(1003, 0),
        parent: hash(1002, 0),
    };
    assert_eq!(
        tell(&mut heads, "a", block.number, 0, 0),
        Change::Gap { from: 1001 }
    );
    let kept = keep("eth_call", b"[{},\"0x3e8\"]", b"\"0x\"", "a", &heads);
    assert_eq!(
        kept,
        Some(Keep {
            hold: Hold::Head,
            block: Some(1000)
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_call_and_no_result_make_it_panic(params in "[\\[\\]{}\"a-z0-9:,]{0,30}", result: Vec<u8>, cut in 0..90_usize) {
        let heads = grown();
        let receipt = format!("{{\"blockHash\":\"{}\",\"blockNumber\":\"0x3e8\"}}", hash(1000, 0));
        for method in ["eth_getLogs", "eth_call", "eth_getTransactionReceipt", "eth_getBlockByNumber"] {
            for result in [&result[..], &receipt.as_bytes()[..cut]] {
                let kept = keep(method, params.as_bytes(), result, "a", &heads);
                prop_assert!(kept.is_none_or(|kept| kept.block <= Some(1000)));
            }
        }
    }

    /// A cache that is asked for anything gives out only the last answer to the same call, while it holds, within its bounds.
    #[test]
    fn the_cache_is_a_map_that_forgets(steps in proptest::collection::vec((0..6_u8, 0..30_u64, 0..300_usize), 0..300)) {
        let (mut kept, account) = kept(6_000);
        let heads = grown();
        let mut model: std::collections::HashMap<u64, (Vec<u8>, Keep)> = Default::default();
        let mut hits = HashSet::new();
        for (step, number, size) in steps {
            match step {
                0..=2 => {
                    let hold = [Hold::Ever, Hold::Block, Hold::Head][usize::from(step)];
                    let answer = vec![number as u8; size];
                    let keep = Keep { hold, block: (hold != Hold::Head).then_some(number) };
                    let mark = kept.cache.mark();
                    let is_kept = kept.cache.insert(key(number), &answer.clone().into(), keep, mark, kept.now);
                    prop_assert!(is_kept);
                    model.insert(number, (answer, keep));
                }
                3 => {
                    let found = kept.cache.get(&key(number), kept.now);
                    if let Some(found) = found {
                        prop_assert_eq!(Some(&found[..]), model.get(&number).map(|(answer, _)| &answer[..]));
                        hits.insert(number);
                    }
                }
                4 => {
                    kept.cache.follow(Change::Extended { from: 1 }, &heads);
                    model.retain(|_, (_, keep)| keep.hold != Hold::Head);
                }
                _ if size < 100 => {
                    kept.cache.follow(Change::Reorganised { from: number }, &heads);
                    model.retain(|_, (_, keep)| keep.hold != Hold::Head && keep.block < Some(number));
                }
                _ => {}
            }
            prop_assert!(kept.cache.bytes() <= 6_000);
            prop_assert_eq!(account.held(), kept.cache.bytes());
            let sizes = kept.cache.entries.values().map(|entry| entry.answer.len() as u64 + ENTRY_BYTES);
            prop_assert_eq!(sizes.sum::<u64>(), kept.cache.bytes());
        }
    }
}
