//! Who goes first when memory is short.
//!
//! Pure and deterministic: the loader and a replay of recorded traces run the same code.
//!
//! - `lru`: the least recently used.
//! - `gdsf`: GreedyDual-Size-Frequency (L. Cherkasova, "Improving WWW Proxies Performance with
//!   Greedy-Dual-Size-Frequency Caching Policy", HP Labs, 1998). Each resource has the value
//!   H = L + frequency x cost / size, the cost being its measured reload time; the smallest goes,
//!   and L rises to its value, so that what is not used any more ages.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a loaded resource has been used, as far as policies care.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Uses since it was loaded.
    pub frequency: u64,
    /// The policy's L at the last use; 0 for policies without one.
    pub floor: f64,
    /// When it was last used, from any fixed moment on.
    pub last_use: Duration,
}

/// One loaded resource, as a policy sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate<'a> {
    /// Its name: decides between equals, so that choices can be repeated.
    pub name: &'a str,
    /// Bytes that its end gives back.
    pub bytes: u64,
    /// Whether it must stay whatever happens.
    pub pinned: bool,
    /// Leases on it: by callers, and one by each loaded resource that depends on it.
    pub leases: usize,
    /// Positions, among the candidates, of those that it holds a lease on.
    pub holds: Vec<usize>,
    /// Its use so far.
    pub usage: Usage,
    /// How long it takes to load again, as measured.
    pub reload: Duration,
}

/// An order in which loaded resources go.
pub trait Policy: Send {
    /// Which one it is.
    fn kind(&self) -> PolicyKind;

    /// Takes note of a use at `now`.
    fn touch(&self, usage: &mut Usage, now: Duration) {
        usage.frequency += 1;
        usage.last_use = now;
    }

    /// What it is worth to keep; the lowest goes first.
    fn worth(&self, candidate: &Candidate<'_>) -> f64;

    /// Takes note that one of this worth went to make room.
    fn evicted(&mut self, _worth: f64) {}
}

/// The least recently used goes first.
#[derive(Debug, Default)]
pub struct Lru;

impl Policy for Lru {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Lru
    }

    fn worth(&self, candidate: &Candidate<'_>) -> f64 {
        candidate.usage.last_use.as_secs_f64()
    }
}

/// What saves least reload time per byte goes first.
#[derive(Debug, Default)]
pub struct Gdsf {
    inflation: f64,
}

impl Policy for Gdsf {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Gdsf
    }

    fn touch(&self, usage: &mut Usage, now: Duration) {
        usage.frequency += 1;
        usage.last_use = now;
        usage.floor = self.inflation;
    }

    #[allow(clippy::cast_precision_loss, reason = "an order, not an account")]
    fn worth(&self, candidate: &Candidate<'_>) -> f64 {
        let saved = candidate.usage.frequency.max(1) as f64 * candidate.reload.as_secs_f64();
        candidate.usage.floor + saved / candidate.bytes.max(1) as f64
    }

    fn evicted(&mut self, worth: f64) {
        self.inflation = self.inflation.max(worth);
    }
}

/// The policies there are, as settings name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// [`Lru`].
    Lru,
    /// [`Gdsf`].
    #[default]
    Gdsf,
}

impl PolicyKind {
    /// A policy of this kind that has seen nothing yet.
    pub fn policy(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru),
            Self::Gdsf => Box::new(Gdsf::default()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lru => "lru",
            Self::Gdsf => "gdsf",
        })
    }
}

/// A word that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no eviction policy; there are lru and gdsf")]
pub struct UnknownPolicy(String);

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    fn from_str(word: &str) -> Result<Self, UnknownPolicy> {
        match word {
            "lru" => Ok(Self::Lru),
            "gdsf" => Ok(Self::Gdsf),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

/// Bytes that would come free if all went that may go.
pub fn evictable(candidates: &[Candidate<'_>]) -> u64 {
    let all = greedy(&Lru, candidates, u64::MAX);
    all.iter().map(|index| candidates[*index].bytes).sum()
}

/// Chooses who goes so that at least `need` bytes come free, the least worth first, and none that
/// can be spared. `None` when all that may go is not enough.
///
/// May go: what is not pinned and has no lease but those of others that go as well.
pub fn choose(policy: &dyn Policy, candidates: &[Candidate<'_>], need: u64) -> Option<Vec<usize>> {
    let mut picked = greedy(policy, candidates, need);
    let mut freed: u64 = picked.iter().map(|index| candidates[*index].bytes).sum();
    if freed < need {
        return None;
    }
    while let Some(position) = spare(candidates, &picked, freed - need) {
        freed -= candidates[picked.remove(position)].bytes;
    }
    Some(picked)
}

/// Picks the least worth that may go until `need` is covered or nothing is left.
fn greedy(policy: &dyn Policy, candidates: &[Candidate<'_>], need: u64) -> Vec<usize> {
    let mut leases: Vec<usize> = candidates.iter().map(|it| it.leases).collect();
    let mut left: Vec<usize> = (0..candidates.len())
        .filter(|index| !candidates[*index].pinned)
        .collect();
    left.sort_by(|a, b| {
        let (a, b) = (&candidates[*a], &candidates[*b]);
        policy
            .worth(a)
            .total_cmp(&policy.worth(b))
            .then(a.usage.last_use.cmp(&b.usage.last_use))
            .then(a.name.cmp(b.name))
    });
    let mut picked = Vec::new();
    let mut freed: u64 = 0;
    while freed < need {
        let Some(position) = left.iter().position(|index| leases[*index] == 0) else {
            break;
        };
        let index = left.remove(position);
        for held in &candidates[index].holds {
            leases[*held] = leases[*held].saturating_sub(1);
        }
        freed = freed.saturating_add(candidates[index].bytes);
        picked.push(index);
    }
    picked
}

/// The largest pick that can be left out while `surplus` bytes are too many: nothing picked may
/// depend on its going.
fn spare(candidates: &[Candidate<'_>], picked: &[usize], surplus: u64) -> Option<usize> {
    (0..picked.len())
        .filter(|position| {
            let candidate = &candidates[picked[*position]];
            let enables = candidate.holds.iter().any(|held| picked.contains(held));
            candidate.bytes <= surplus && !enables
        })
        .max_by_key(|position| candidates[picked[*position]].bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: &'static str, bytes: u64, last_use: u64) -> Candidate<'static> {
        Candidate {
            name,
            bytes,
            pinned: false,
            leases: 0,
            holds: Vec::new(),
            usage: Usage {
                frequency: 1,
                floor: 0.0,
                last_use: Duration::from_secs(last_use),
            },
            reload: Duration::from_secs(1),
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
    fn lru_takes_the_longest_unused_first() {
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
    fn gdsf_keeps_what_is_dear_small_and_often_used() {
        let policy = Gdsf::default();
        let plain = candidate("plain", 10, 10);
        let dear = Candidate {
            name: "dear",
            reload: Duration::from_secs(9),
            ..plain.clone()
        };
        let small = Candidate {
            name: "small",
            bytes: 1,
            ..plain.clone()
        };
        let often = Candidate {
            name: "often",
            usage: Usage {
                frequency: 9,
                ..plain.usage
            },
            ..plain.clone()
        };
        for better in [dear, small, often] {
            assert_eq!(
                names(&policy, &[better, plain.clone()], 1).unwrap(),
                ["plain"]
            );
        }
    }

    #[test]
    fn gdsf_lets_what_was_once_popular_age() {
        let mut policy = Gdsf::default();
        let mut popular = candidate("popular", 10, 1);
        popular.usage.frequency = 20;
        for round in 2..40 {
            let mut newcomer = candidate("newcomer", 10, round);
            newcomer.usage = Usage::default();
            policy.touch(&mut newcomer.usage, Duration::from_secs(round));
            let victim = choose(&policy, &[popular.clone(), newcomer.clone()], 10).unwrap();
            if victim == [0] {
                assert!(round > 10, "its popularity must count for a while");
                return;
            }
            policy.evicted(policy.worth(&newcomer));
        }
        panic!("the popular one never aged");
    }

    #[test]
    fn what_turned_out_superfluous_stays_the_largest_first() {
        let candidates = [
            candidate("tiny", 1, 1),
            candidate("small", 4, 2),
            candidate("large", 10, 3),
        ];
        // Greedy takes all three to cover 9; the large one alone is enough.
        assert_eq!(names(&Lru, &candidates, 9).unwrap(), ["large"]);
        assert_eq!(names(&Lru, &candidates, 5).unwrap(), ["tiny", "small"]);
    }

    #[test]
    fn a_dependency_goes_only_with_all_that_depend_on_it() {
        let mut base = candidate("base", 100, 1);
        base.leases = 1;
        let mut user = candidate("user", 1, 2);
        user.holds = vec![0];
        let candidates = [base.clone(), user.clone()];
        assert_eq!(names(&Lru, &candidates, 1).unwrap(), ["user"]);
        assert_eq!(names(&Lru, &candidates, 100).unwrap(), ["user", "base"]);
        user.pinned = true;
        assert_eq!(names(&Lru, &[base, user], 1), None);
    }

    #[test]
    fn names_are_read_and_written_alike() {
        for kind in [PolicyKind::Lru, PolicyKind::Gdsf] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.policy().kind(), kind);
        }
        assert_eq!(
            "LFU".parse::<PolicyKind>().unwrap_err().to_string(),
            "\"LFU\" is no eviction policy; there are lru and gdsf"
        );
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
                    holds: Vec::new(),
                    usage: Usage {
                        frequency: *frequency,
                        floor: *seconds as f64 / 100.0,
                        last_use: Duration::from_secs(*seconds),
                    },
                    reload: Duration::from_millis(seconds * 37),
                })
                .collect();
            for (index, row) in rows.iter().enumerate() {
                // Only on earlier ones, so that there is no cycle; each bit one dependency.
                for held in (0..index).filter(|held| row.5 & (1 << held) != 0 && row.5 % 3 == 0) {
                    all[index].holds.push(held);
                    all[held].leases += 1;
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn choices_keep_every_promise(candidates in any_candidates(), need in 0u64..300) {
            for policy in [&Lru as &dyn Policy, &Gdsf::default()] {
                let Some(picked) = choose(policy, &candidates, need) else {
                    prop_assert!(evictable(&candidates) < need, "it gave up too early");
                    continue;
                };
                let freed: u64 = picked.iter().map(|index| candidates[*index].bytes).sum();
                prop_assert!(freed >= need, "it does not cover the need");
                for (position, index) in picked.iter().enumerate() {
                    let candidate = &candidates[*index];
                    prop_assert!(!candidate.pinned);
                    let by_others = picked[..position]
                        .iter()
                        .filter(|other| candidates[**other].holds.contains(index))
                        .count();
                    prop_assert_eq!(candidate.leases, by_others, "somebody still needs it");
                    let enables = candidate.holds.iter().any(|held| picked.contains(held));
                    prop_assert!(
                        enables || freed - candidate.bytes < need,
                        "it takes more than is needed"
                    );
                }
            }
        }
    }
}
