//! What the policies promise: the order of evictions, and choices that free enough and no more.

use proptest::prelude::*;

use super::candidate::{Candidate, DecayingCount, Policy, UseRecord};
use super::choose::{choose, evictable};
use super::gdsf::Gdsf;
use super::lru::Lru;
use std::time::Duration;

fn count(weight: f64) -> DecayingCount {
    DecayingCount {
        weight,
        updated_at: 0.0,
    }
}

fn candidate(name: &'static str, bytes: u64, last_use: u64) -> Candidate<'static> {
    Candidate {
        name,
        bytes,
        pinned: false,
        leases: 0,
        depends_on: Vec::new(),
        usage: UseRecord {
            popularity: count(1.0),
            recent: DecayingCount::default(),
            last_use: Duration::from_secs(last_use),
        },
        suspect: false,
        reload_time: Duration::from_secs(1),
    }
}

fn names(
    policy: &dyn Policy,
    candidates: &[Candidate<'static>],
    need: u64,
) -> Option<Vec<&'static str>> {
    let picked = choose(policy, candidates, need)?;
    Some(picked.iter().map(|index| candidates[*index].name).collect())
}

#[test]
fn lru_evicts_the_longest_unused_first() {
    let candidates = [
        candidate("new", 10, 30),
        candidate("old", 10, 10),
        candidate("middle", 10, 20),
    ];
    assert_eq!(names(&Lru, &candidates, 10).unwrap(), ["old"]);
    assert_eq!(names(&Lru, &candidates, 11).unwrap(), ["old", "middle"]);
    assert_eq!(names(&Lru, &candidates, 31), None);
    assert_eq!(names(&Lru, &candidates, 0).unwrap(), [""; 0]);
}

#[test]
fn suspects_are_evicted_before_all_others() {
    let mut leaking = candidate("leaking", 10, 9);
    leaking.suspect = true;
    let candidates = [candidate("old", 10, 1), leaking, candidate("older", 10, 0)];
    for policy in [&Lru as &dyn Policy, &Gdsf::default()] {
        assert_eq!(names(policy, &candidates, 10).unwrap(), ["leaking"]);
    }
}

#[test]
fn gdsf_keeps_slow_loads_small_and_often_used_resources() {
    let policy = Gdsf::default();
    let plain = candidate("plain", 10, 10);
    let slow = Candidate {
        name: "slow",
        reload_time: Duration::from_secs(9),
        ..plain.clone()
    };
    let small = Candidate {
        name: "small",
        bytes: 1,
        ..plain.clone()
    };
    let often = Candidate {
        name: "often",
        usage: UseRecord {
            popularity: count(9.0),
            ..plain.usage
        },
        ..plain.clone()
    };
    for better in [slow, small, often] {
        assert_eq!(
            names(&policy, &[better, plain.clone()], 1).unwrap(),
            ["plain"]
        );
    }
}

/// A candidate has 20 uses at the start. In each round a newcomer has one use, after an eviction if
/// `evictions`, and after a pause. Gives the number of rounds until the newcomer is kept instead.
fn rounds_until_faded(policy: &mut Gdsf, evictions: bool, pause: Duration) -> u32 {
    let mut popular = candidate("popular", 10, 0);
    popular.usage = UseRecord::default();
    for _ in 0..20 {
        policy.record_use(&mut popular.usage, Duration::ZERO);
    }
    for round in 1..10_000 {
        if evictions {
            policy.record_eviction();
        }
        let mut newcomer = candidate("newcomer", 10, 0);
        newcomer.usage = UseRecord::default();
        policy.record_use(&mut newcomer.usage, pause * round);
        if choose(policy, &[popular.clone(), newcomer], 10) == Some(vec![0]) {
            return round;
        }
    }
    panic!("its popularity did not fade");
}

#[test]
fn gdsf_popularity_fades_with_evictions_and_with_time() {
    let by_evictions = rounds_until_faded(&mut Gdsf::default(), true, Duration::ZERO);
    assert!((200..900).contains(&by_evictions), "{by_evictions}");
    // 20 uses are worth one after log2(20) = 4.3 half-lives.
    let hour = Duration::from_secs(3600);
    assert_eq!(rounds_until_faded(&mut Gdsf::default(), false, hour), 26);
}

/// Records the uses in turns, then gives the name of the one that is chosen.
fn victim_after(policy: &mut Gdsf, turns: &[(&'static str, usize)]) -> &'static str {
    let mut all: Vec<Candidate<'static>> = Vec::new();
    for (name, uses) in turns {
        let place = all.iter().position(|it| it.name == *name);
        let place = place.unwrap_or_else(|| {
            let new = Candidate {
                usage: UseRecord::default(),
                ..candidate(name, 10, 0)
            };
            all.push(new);
            all.len() - 1
        });
        for _ in 0..*uses {
            policy.record_use(&mut all[place].usage, Duration::ZERO);
        }
    }
    names(policy, &all, 1).unwrap()[0]
}

#[test]
fn gdsf_prefers_many_recent_uses_over_popularity_but_not_a_few() {
    // "known" has 5 % of all uses.
    let mut usual = [("known", 1), ("main", 19)].repeat(30);
    usual.push(("new", 1));
    assert_eq!(victim_after(&mut Gdsf::default(), &usual), "new");
    usual.push(("new", 7));
    assert_eq!(victim_after(&mut Gdsf::default(), &usual), "known");
}

#[test]
fn superfluous_candidates_stay_the_largest_first() {
    let candidates = [
        candidate("tiny", 1, 1),
        candidate("small", 4, 2),
        candidate("large", 10, 3),
    ];
    // In order, all three are needed for 9 bytes. The large one alone is enough.
    assert_eq!(names(&Lru, &candidates, 9).unwrap(), ["large"]);
    assert_eq!(names(&Lru, &candidates, 5).unwrap(), ["tiny", "small"]);
}

#[test]
fn a_dependency_is_evicted_only_with_all_of_its_dependents() {
    let mut base = candidate("base", 100, 1);
    base.leases = 1;
    let mut user = candidate("user", 1, 2);
    user.depends_on = vec![0];
    let candidates = [base.clone(), user.clone()];
    assert_eq!(names(&Lru, &candidates, 1).unwrap(), ["user"]);
    assert_eq!(names(&Lru, &candidates, 100).unwrap(), ["user", "base"]);
    user.pinned = true;
    assert_eq!(names(&Lru, &[base, user], 1), None);
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate<'static>>> {
    let one = (
        0u64..50,
        any::<bool>(),
        0usize..2,
        0u64..9,
        0u64..20,
        any::<u16>(),
    );
    prop::collection::vec(one, 0..9).prop_map(|rows| {
        let mut all: Vec<_> = rows
            .iter()
            .map(|(bytes, pinned, leases, frequency, seconds, _)| Candidate {
                name: "any",
                bytes: *bytes,
                pinned: *pinned && *frequency > 6,
                leases: *leases,
                depends_on: Vec::new(),
                usage: UseRecord {
                    popularity: DecayingCount {
                        weight: *frequency as f64,
                        updated_at: *seconds as f64 / 100.0,
                    },
                    recent: count(*seconds as f64),
                    last_use: Duration::from_secs(*seconds),
                },
                suspect: seconds % 5 == 0,
                reload_time: Duration::from_millis(seconds * 37),
            })
            .collect();
        for (index, row) in rows.iter().enumerate() {
            // Only on earlier ones, so that there is no cycle; each bit one dependency.
            for held in (0..index).filter(|held| row.5 & (1 << held) != 0 && row.5 % 3 == 0) {
                all[index].depends_on.push(held);
                all[held].leases += 1;
            }
        }
        all
    })
}

proptest! {
    #[test]
    fn choices_free_enough_and_no_more_than_needed(candidates in any_candidates(), need in 0u64..300) {
        for policy in [&Lru as &dyn Policy, &Gdsf::default()] {
            let Some(picked) = choose(policy, &candidates, need) else {
                prop_assert!(evictable(&candidates) < need, "the evictable candidates were enough");
                continue;
            };
            let freed: u64 = picked.iter().map(|index| candidates[*index].bytes).sum();
            prop_assert!(freed >= need, "too few bytes are freed");
            for (position, index) in picked.iter().enumerate() {
                let candidate = &candidates[*index];
                prop_assert!(!candidate.pinned);
                let by_others = picked[..position]
                    .iter()
                    .filter(|other| candidates[**other].depends_on.contains(index))
                    .count();
                prop_assert_eq!(candidate.leases, by_others, "it has another lease");
                let enables = candidate.depends_on.iter().any(|held| picked.contains(held));
                prop_assert!(
                    enables || freed - candidate.bytes < need,
                    "it can be spared"
                );
            }
        }
    }
}
