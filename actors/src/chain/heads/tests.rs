//! What the head is when providers disagree, and that no change of a block goes unreported.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

/// A hash that is different for each block of each branch.
fn hash(number: u64, branch: u8) -> BlockHash {
    let mut bytes = [branch; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    BlockHash::new(bytes)
}

/// The block `number` of a chain that goes over to another branch at the first block of each pair of `branches`.
fn block(number: u64, branches: &[(u64, u8)]) -> Block {
    let branch = |number| {
        let last = branches.iter().rev().find(|(from, _)| *from <= number);
        last.map_or(0, |(_, branch)| *branch)
    };
    let at = |number| hash(number, branch(number));
    let parent = number.checked_sub(1).map_or(BlockHash::new([0; 32]), at);
    Block {
        number,
        hash: at(number),
        parent,
    }
}

struct Chain {
    heads: Heads,
    now: Instant,
}

impl Chain {
    fn new() -> Self {
        let config = HeadsConfig {
            window: 256,
            finality_depth: 64,
            block_time: Duration::from_secs(12),
            lead_max: 3,
            stale_after: Duration::from_secs(240),
        };
        Self {
            heads: Heads::new(config),
            now: Instant::now(),
        }
    }

    fn tell(&mut self, provider: &str, block: Block) -> Change {
        let head = Head {
            block,
            seen_at: self.now,
        };
        self.heads.observe(provider, &head)
    }

    fn tell_all(&mut self, block: Block) {
        for provider in ["a", "b", "c"] {
            self.tell(provider, block);
        }
    }

    fn head(&self) -> Option<u64> {
        self.heads.head().map(|head| head.number)
    }
}

#[test]
fn a_new_block_extends_the_chain_once() {
    let mut chain = Chain::new();
    assert_eq!(
        chain.tell("a", block(100, &[])),
        Change::Extended { from: 100 }
    );
    assert_eq!(chain.tell("b", block(100, &[])), Change::Nothing);
    assert_eq!(
        chain.tell("b", block(101, &[])),
        Change::Extended { from: 101 }
    );
    assert_eq!(chain.tell("a", block(101, &[])), Change::Nothing);
    assert_eq!(chain.heads.hash_at(101), Some(hash(101, 0)));
    assert_eq!(chain.heads.hash_at(99), Some(hash(99, 0)), "the parent");
    assert_eq!(chain.heads.hash_at(102), None);
    assert_eq!(
        (chain.heads.lag("a"), chain.heads.lag("x")),
        (Some(0), None)
    );
}

#[test]
fn a_head_that_is_none_is_ignored() {
    let mut chain = Chain::new();
    chain.tell("a", block(100, &[]));
    assert_eq!(chain.tell("a", block(u64::MAX, &[])), Change::Nothing);
    assert_eq!((chain.head(), chain.heads.lag("a")), (Some(100), Some(0)));
}

#[test]
fn a_gap_is_reported_and_filled() {
    let mut chain = Chain::new();
    chain.tell("a", block(100, &[]));
    assert_eq!(chain.tell("a", block(103, &[])), Change::Gap { from: 101 });
    assert_eq!(chain.heads.hash_at(102), Some(hash(102, 0)));
    assert_eq!(chain.heads.hash_at(100), None, "it may have been replaced");
    let missing = Missing {
        number: 102,
        hash: hash(102, 0),
    };
    assert_eq!(chain.heads.missing(), Some(missing));
    assert_eq!(
        chain.heads.fill(block(102, &[(0, 9)])),
        Change::Nothing,
        "another block"
    );
    assert_eq!(chain.heads.fill(block(102, &[])), Change::Nothing);
    assert_eq!(chain.heads.fill(block(101, &[])), Change::Nothing);
    assert_eq!(chain.heads.missing(), None);
    assert_eq!(chain.heads.hash_at(100), Some(hash(100, 0)));
    assert_eq!(
        chain.tell("a", block(104, &[])),
        Change::Extended { from: 104 }
    );
}

#[test]
fn a_reorganisation_in_a_gap_is_found_when_the_gap_is_filled() {
    let mut chain = Chain::new();
    for number in 98..=100 {
        chain.tell("a", block(number, &[]));
    }
    let other = [(100, 1)];
    assert_eq!(
        chain.tell("a", block(102, &other)),
        Change::Gap { from: 101 }
    );
    assert_eq!(
        chain.heads.fill(block(101, &other)),
        Change::Reorganised { from: 39 }
    );
    assert_eq!(chain.heads.hash_at(100), Some(hash(100, 1)));
    let mut chain = Chain::new();
    for number in 98..=100 {
        chain.tell("a", block(number, &[]));
    }
    chain.tell("b", block(100, &other));
    assert_eq!(chain.head(), Some(100));
    chain.tell("b", block(102, &other));
    assert_eq!(
        chain.heads.fill(block(101, &other)),
        Change::Reorganised { from: 100 }
    );
}

#[test]
fn the_only_provider_is_followed_at_once() {
    let mut chain = Chain::new();
    for number in 90..=100 {
        chain.tell("a", block(number, &[]));
    }
    assert_eq!(
        chain.tell("a", block(100, &[(100, 1)])),
        Change::Reorganised { from: 100 }
    );
    assert_eq!(chain.heads.hash_at(100), Some(hash(100, 1)));
    // Two blocks deep. Where the branches part is not known: all that is not final may be wrong.
    assert_eq!(
        chain.tell("a", block(101, &[(100, 2)])),
        Change::Reorganised { from: 38 }
    );
    // A shorter branch, and still unknown.
    assert_eq!(
        chain.tell("a", block(100, &[(100, 3)])),
        Change::Reorganised { from: 38 }
    );
    assert_eq!(chain.head(), Some(100));
}

#[test]
fn a_head_goes_back_when_all_providers_say_so_twice() {
    let mut chain = Chain::new();
    for number in 90..=100 {
        chain.tell_all(block(number, &[]));
    }
    for provider in ["a", "a", "a", "b", "b", "c"] {
        assert_eq!(chain.tell(provider, block(95, &[])), Change::Nothing);
        assert_eq!(chain.head(), Some(100));
    }
    assert_eq!(chain.heads.lag("a"), Some(5));
    assert_eq!(
        chain.tell("c", block(95, &[])),
        Change::Reorganised { from: 96 }
    );
    assert_eq!(chain.head(), Some(95));
    assert_eq!(
        (chain.heads.hash_at(96), chain.heads.hash_at(95)),
        (None, Some(hash(95, 0)))
    );
}

#[test]
fn a_provider_that_is_behind_changes_nothing() {
    let mut chain = Chain::new();
    for number in 90..=100 {
        chain.tell("a", block(number, &[]));
        assert_eq!(chain.tell("b", block(number - 5, &[])), Change::Nothing);
    }
    assert_eq!(chain.heads.lag("b"), Some(5));
    assert!(chain.heads.vouches("b", 95) && !chain.heads.vouches("b", 96));
    assert!(chain.heads.vouches("a", 100) && !chain.heads.vouches("x", 1));
}

#[test]
fn the_branch_with_the_most_providers_counts() {
    let mut chain = Chain::new();
    for number in 90..=100 {
        chain.tell_all(block(number, &[]));
    }
    let other = [(100, 1)];
    // One of three, also when its branch is longer.
    for number in 100..=103 {
        assert_eq!(chain.tell("a", block(number, &other)), Change::Nothing);
    }
    assert!(
        !chain.heads.vouches("a", 100),
        "its answers are of another branch"
    );
    let elsewhere =
        |chain: &Chain| ["a", "b", "c"].map(|it| chain.heads.is_on_other_branch(it, 100));
    assert_eq!(elsewhere(&chain), [true, false, false]);
    assert!(
        chain.heads.vouches("a", 30),
        "but not those about final blocks"
    );
    assert_eq!(
        chain.tell("b", block(100, &other)),
        Change::Reorganised { from: 100 }
    );
    assert_eq!(chain.head(), Some(103));
    assert!(!chain.heads.vouches("c", 100));
    assert_eq!(elsewhere(&chain), [false, false, true]);
}

#[test]
fn two_equal_branches_do_not_take_turns() {
    let mut chain = Chain::new();
    chain.tell("a", block(99, &[]));
    chain.tell("b", block(99, &[]));
    let mut changes = 0;
    for number in 100..150 {
        for (provider, branch) in [("a", 0), ("b", 1)] {
            let change = chain.tell(provider, block(number, &[(100, branch)]));
            changes += usize::from(matches!(change, Change::Reorganised { .. }));
        }
    }
    assert_eq!(changes, 0);
    assert_eq!(chain.heads.hash_at(149), Some(hash(149, 0)));
    chain.tell("b", block(150, &[(100, 1)]));
    chain.tell("b", block(151, &[(100, 1)]));
    let change = chain.tell("b", block(152, &[(100, 1)]));
    assert_eq!(change, Change::Reorganised { from: 100 }, "a lead of three");
}

#[test]
fn one_provider_alone_leads_by_few_blocks() {
    let mut chain = Chain::new();
    chain.tell_all(block(100, &[]));
    assert_eq!(
        chain.tell("a", block(1_000_000, &[(0, 9)])),
        Change::Nothing
    );
    assert_eq!(chain.head(), Some(100));
    assert_eq!(
        chain.tell("b", block(101, &[])),
        Change::Extended { from: 101 }
    );
    assert_eq!(
        chain.tell("c", block(104, &[])),
        Change::Gap { from: 102 },
        "three ahead of b"
    );
    assert_eq!(chain.tell("c", block(106, &[])), Change::Nothing);
    // Time passes in which two more blocks are due.
    chain.now += Duration::from_secs(12);
    assert_eq!(chain.tell("c", block(106, &[])), Change::Gap { from: 105 });
}

#[test]
fn a_provider_that_was_wrong_does_not_lead_again_soon() {
    let mut chain = Chain::new();
    chain.tell_all(block(100, &[]));
    let mut changes = Vec::new();
    for number in 101..200 {
        chain.tell("a", block(number, &[(number, 1)]));
        for provider in ["b", "c"] {
            if let Change::Reorganised { from } = chain.tell(provider, block(number, &[])) {
                changes.push(from);
            }
        }
    }
    assert_eq!(changes, [101]);
}

#[test]
fn one_provider_alone_does_not_overrule_a_branch_by_its_length() {
    let mut chain = Chain::new();
    for number in 97..=100 {
        chain.tell_all(block(number, &[]));
    }
    // The others may be of this branch, as far as anybody knows.
    assert_eq!(
        chain.tell("a", block(103, &[(0, 1)])),
        Change::Gap { from: 101 }
    );
    chain.tell("b", block(101, &[]));
    assert_eq!(chain.tell("a", block(104, &[(0, 2)])), Change::Nothing);
    assert_eq!(chain.heads.hash_at(103), Some(hash(103, 1)));
}

#[test]
fn a_first_provider_that_lies_is_overruled_with_all_that_followed_from_it() {
    let mut chain = Chain::new();
    chain.tell("a", block(1_000_000, &[(0, 9)]));
    assert_eq!(chain.heads.finalized(), Some(999_936));
    for provider in ["b", "c", "b"] {
        assert_eq!(chain.tell(provider, block(500, &[])), Change::Nothing);
    }
    chain.heads.set_used("a", false);
    assert_eq!(
        chain.tell("c", block(500, &[])),
        Change::Reorganised { from: 437 }
    );
    assert_eq!(
        (chain.head(), chain.heads.finalized()),
        (Some(500), Some(436))
    );
}

#[test]
fn providers_that_fell_silent_do_not_hold_the_head() {
    let mut chain = Chain::new();
    chain.tell_all(block(100, &[]));
    chain.now += Duration::from_secs(241);
    assert_eq!(
        chain.tell("a", block(101, &[])),
        Change::Extended { from: 101 }
    );
    assert_eq!(
        chain.tell("a", block(101, &[(101, 1)])),
        Change::Reorganised { from: 101 }
    );
}

#[test]
fn the_final_block_is_the_median_of_what_providers_tell_and_never_goes_back() {
    let mut chain = Chain::new();
    chain.tell_all(block(1000, &[]));
    assert_eq!(chain.heads.finalized(), Some(936), "by depth");
    chain.heads.observe_finalized("a", 940);
    assert_eq!(chain.heads.finalized(), Some(940));
    chain.heads.observe_finalized("b", 10);
    assert_eq!(chain.heads.finalized(), Some(940));
    chain.heads.observe_finalized("c", 999_999);
    assert_eq!(chain.heads.finalized(), Some(940));
    chain.heads.observe_finalized("b", 960);
    assert_eq!(chain.heads.finalized(), Some(960));
    chain.heads.observe_finalized("x", 999);
    assert!(chain.heads.is_final(960) && !chain.heads.is_final(961));
}

#[test]
fn a_provider_that_led_alone_and_then_says_something_else_is_not_followed_again() {
    let mut chain = Chain::new();
    chain.tell_all(block(100, &[]));
    chain.tell("a", block(103, &[(0, 3)]));
    assert_eq!(chain.head(), Some(103), "one leads by few blocks");
    chain.tell("b", block(101, &[]));
    chain.tell("c", block(101, &[]));
    chain.tell("a", block(104, &[(0, 1)]));
    chain.tell("b", block(102, &[]));
    let change = chain.tell("c", block(102, &[]));
    assert!(
        matches!(change, Change::Reorganised { .. }),
        "what a said is gone: {change:?}"
    );
    assert_eq!(chain.heads.head(), Some(block(102, &[])));
    chain.tell("a", block(105, &[(0, 3)]));
    assert_eq!(chain.heads.head(), Some(block(102, &[])));
}

#[test]
fn one_of_two_that_are_left_of_three_is_not_believed_to_be_far_ahead() {
    let mut chain = Chain::new();
    chain.tell_all(block(100, &[]));
    assert_eq!(chain.heads.set_used("a", false), Change::Nothing);
    chain.tell("c", block(1_000_000, &[(0, 9)]));
    assert_eq!(chain.head(), Some(100));
    chain.tell("b", block(101, &[]));
    assert_eq!(chain.head(), Some(101));
    // It is the only one.
    chain.heads.set_used("b", false);
    assert_eq!(chain.head(), Some(1_000_000));
    // The others return as they were.
    for provider in ["a", "b"] {
        chain.heads.set_used(provider, true);
        chain.tell(provider, block(102, &[]));
    }
    chain.tell("c", block(102, &[]));
    chain.tell_all(block(102, &[]));
    assert_eq!(chain.heads.head(), Some(block(102, &[])));
}

#[test]
fn a_provider_that_is_stuck_does_not_hold_the_only_other_one_up() {
    let mut chain = Chain::new();
    chain.tell("b", block(20, &[]));
    chain.tell("a", block(100, &[]));
    chain.tell("c", block(100, &[]));
    chain.heads.set_used("a", false);
    for number in 101..110 {
        chain.tell("c", block(number, &[]));
        assert_eq!(chain.head(), Some(number));
    }
}

#[test]
fn a_provider_whose_branch_parts_below_the_final_block_is_not_asked_about_final_blocks() {
    let mut chain = Chain::new();
    for number in 1..=100 {
        chain.tell_all(block(number, &[]));
    }
    assert!(chain.heads.is_final(36));
    for (branch, from, is_shared) in [(1, 37, true), (2, 36, false), (3, 10, false)] {
        for number in from..=101 {
            chain.tell("a", block(number, &[(from, branch)]));
        }
        assert_eq!(
            chain.heads.is_on_other_branch("a", 36),
            !is_shared,
            "{from}"
        );
        assert_eq!(chain.heads.vouches("a", 20), is_shared, "{from}");
        assert!(chain.heads.is_on_other_branch("a", 37));
    }
}

#[test]
fn a_provider_that_is_not_used_does_not_hold_the_chain_on_its_branch() {
    let mut chain = Chain::new();
    chain.tell("a", block(100, &[]));
    chain.tell("b", block(100, &[(100, 1)]));
    assert_eq!(chain.heads.head(), Some(block(100, &[])));
    assert!(chain.heads.is_on_other_branch("b", 100));
    assert!(
        !chain.heads.is_on_other_branch("b", 30),
        "it has what is final"
    );
    let change = chain.heads.set_used("a", false);
    assert_eq!(change, Change::Reorganised { from: 100 });
    assert!(!chain.heads.is_on_other_branch("b", 100));
}

/// What happens to the providers of a model.
#[derive(Debug, Clone)]
enum Step {
    /// A provider moves so many blocks on, on its branch.
    Advance(usize, u64),
    /// A provider falls so many blocks back.
    Back(usize, u64),
    /// A provider goes over to another branch, which parts so many blocks before its head.
    Reorganise(usize, u64),
    /// A provider goes over to the branch of another one.
    Follow(usize, usize),
    /// The gap is filled by so many blocks.
    Fill(usize),
    /// A provider is used, or not.
    Use(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let provider = || 0..3_usize;
    prop_oneof![
        6 => (provider(), 0..4_u64).prop_map(|(provider, by)| Step::Advance(provider, by)),
        1 => (provider(), 0..5_u64).prop_map(|(provider, by)| Step::Back(provider, by)),
        1 => (provider(), 0..5_u64).prop_map(|(provider, by)| Step::Reorganise(provider, by)),
        2 => (provider(), provider()).prop_map(|(provider, other)| Step::Follow(provider, other)),
        3 => (0..4_usize).prop_map(Step::Fill),
        1 => (provider(), any::<bool>()).prop_map(|(provider, is_used)| Step::Use(provider, is_used)),
    ]
}

/// A provider: its head, and where its chain goes over to other branches.
type Branches = Vec<(u64, u8)>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever notes hashes down, and strikes out those that are reported, never has a wrong one.
    #[test]
    fn no_change_of_a_block_goes_unreported(steps in proptest::collection::vec(step(), 1..60)) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut chain = Chain::new();
        let mut providers: Vec<(u64, Branches)> = vec![(300, Vec::new()); 3];
        let mut known: BTreeMap<BlockHash, Block> = BTreeMap::new();
        let mut notes: BTreeMap<u64, BlockHash> = BTreeMap::new();
        let mut branch = 0;
        let mut last = None;
        for step in steps {
            let told = match step {
                Step::Advance(provider, by) => {
                    providers[provider].0 += by;
                    Some(provider)
                }
                Step::Back(provider, by) => {
                    providers[provider].0 -= by;
                    Some(provider)
                }
                Step::Reorganise(provider, depth) => {
                    branch += 1;
                    let (head, branches) = &mut providers[provider];
                    let from = *head - depth;
                    branches.retain(|(other, _)| *other < from);
                    branches.push((from, branch));
                    Some(provider)
                }
                Step::Follow(provider, other) => {
                    providers[provider] = providers[other].clone();
                    Some(provider)
                }
                Step::Fill(_) | Step::Use(..) => None,
            };
            let mut changes = Vec::new();
            if let Some(provider) = told {
                let (number, branches) = &providers[provider];
                for number in 0..=*number {
                    let block = block(number, branches);
                    known.insert(block.hash, block);
                }
                changes.push(chain.tell(NAMES[provider], block(*number, branches)));
            }
            match step {
                Step::Fill(count) => {
                    for _ in 0..count {
                        let Some(missing) = chain.heads.missing() else {
                            break;
                        };
                        changes.push(chain.heads.fill(known[&missing.hash]));
                    }
                }
                Step::Use(provider, is_used) => {
                    changes.push(chain.heads.set_used(NAMES[provider], is_used));
                }
                _ => {}
            }
            let head = chain.heads.head();
            for change in &changes {
                if let Change::Reorganised { from } = change {
                    notes.split_off(from);
                }
            }
            for number in 0..310 {
                let Some(hash) = chain.heads.hash_at(number) else {
                    continue;
                };
                let noted = *notes.entry(number).or_insert(hash);
                prop_assert_eq!(noted, hash, "{} after {:?}: {:?}", number, step, changes);
                prop_assert!(head.is_some_and(|head| head.number >= number));
            }
            // What has a hash is one chain, up to the head.
            if let Some(head) = head {
                let (mut number, mut hash) = (head.number, head.hash);
                while let Some(noted) = chain.heads.hash_at(number) {
                    prop_assert_eq!(noted, hash);
                    hash = known[&hash].parent;
                    number -= 1;
                }
            }
            let goes_back = head.map(|head| head.number) < last;
            let is_reported = changes.iter().any(|change| matches!(change, Change::Reorganised { .. }));
            prop_assert!(!goes_back || is_reported);
            last = head.map(|head| head.number);
        }
        // In the end all are used and say the same.
        for provider in NAMES {
            chain.heads.set_used(provider, true);
        }
        let (number, branches) = (providers[0].0, &providers[0].1);
        for _ in 0..3 {
            chain.tell_all(block(number, branches));
        }
        prop_assert_eq!(chain.heads.head(), Some(block(number, branches)));
    }

    /// Two honest providers and one that says anything: after a first time, it changes nothing.
    #[test]
    fn one_liar_among_three_is_followed_once(lies in proptest::collection::vec((0..400_u64, 1..9_u8), 60)) {
        let mut chain = Chain::new();
        chain.tell_all(block(100, &[]));
        let mut reorganised = 0;
        for (step, (lie, branch)) in (101..).zip(lies) {
            for (provider, block) in [
                ("a", block(lie, &[(0, branch)])),
                ("b", block(step, &[])),
                ("c", block(step, &[])),
            ] {
                let change = chain.tell(provider, block);
                reorganised += usize::from(matches!(change, Change::Reorganised { .. }));
            }
            let head = chain.heads.head();
            prop_assert!(head.is_some_and(|head| head.number.abs_diff(step) <= 4), "{:?}", head);
        }
        prop_assert!(reorganised <= 1, "{}", reorganised);
    }
}
