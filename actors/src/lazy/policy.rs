//! Who goes first when memory is short.
//!
//! Pure and deterministic: the loader and a replay of recorded traces run the same code.
//!
//! - `lru`: the least recently used.
//! - `gdsf`: greedy by what a byte saves, after GreedyDual-Size-Frequency (L. Cherkasova, "Improving
//!   WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs, 1998): the
//!   smallest frequency x cost / size goes, the cost being the measured reload time. What differs is
//!   how popularity ages; see [`Gdsf`]. How near both come to an optimum: `docs/eviction.md`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A count of uses in which each loses half its weight in each half-life.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Count {
    /// What the uses weighed together at `age`.
    pub amount: f64,
    /// When the last one came, in half-lives.
    pub age: f64,
}

impl Count {
    fn add(&mut self, age: f64) {
        *self = Self {
            amount: self.at(age) + 1.0,
            age,
        };
    }

    fn at(&self, age: f64) -> f64 {
        self.amount * (self.age - age).exp2()
    }

    /// Which part of `all`, to which the last use was added, is this.
    fn share(&self, all: &Self) -> f64 {
        self.at(all.age) / all.amount.max(1.0)
    }
}

/// How a resource has been used, as far as policies care. It outlives unloads: what was popular is
/// so when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Its uses in the long run. Policies that do not care leave it empty.
    pub popularity: Count,
    /// Its latest uses. Policies that do not care leave it empty.
    pub recent: Count,
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
    /// Whether it takes ever more memory, or far more than it should: it goes before all others,
    /// whatever it is worth, since what it holds is not what it needs.
    pub suspect: bool,
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
    /// Takes note of a use at `now`.
    fn touch(&mut self, usage: &mut Usage, now: Duration) {
        usage.last_use = now;
    }

    /// What it is worth to keep; the lowest goes first.
    fn worth(&self, candidate: &Candidate<'_>) -> f64;

    /// Takes note that one went to make room.
    fn evicted(&mut self) {}
}

/// The least recently used goes first.
#[derive(Debug, Default)]
pub struct Lru;

impl Policy for Lru {
    fn worth(&self, candidate: &Candidate<'_>) -> f64 {
        candidate.usage.last_use.as_secs_f64()
    }
}

/// Evictions after which a use counts half for popularity. From 150 to 400 the table in
/// `docs/eviction.md` hardly changes; fewer forget what is asked for rarely, more are slow when
/// popularity shifts.
const HALF_LIFE_EVICTIONS: f64 = 200.0;

/// Time after which a use counts half for popularity: where nothing was evicted for long, what was
/// popular then need not be so now.
const HALF_LIFE_SECONDS: f64 = 6.0 * 3600.0;

/// Uses, of anything, after which a use counts half as a recent one.
const RECENT_USES: f64 = 50.0;

/// Time after which a use counts half as a recent one, should so few others come.
const RECENT_SECONDS: f64 = 1800.0;

/// How far recent uses must be from what popularity makes expect, to be believed instead of it: two
/// standard deviations, as a square.
const SURPRISE: f64 = 4.0;

/// What saves least reload time per byte goes first.
///
/// The frequency is a resource's share in all uses, in the long run: a use counts half after some
/// evictions or hours (LRFU: D. Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least
/// Recently Used and Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001),
/// and counts on after an unload. GreedyDual-Size-Frequency itself forgets with the unload and adds a
/// rising floor to all that is used. Replays of independent requests show both to lose: a model's
/// chance to be asked for again does not depend on whether it was evicted, and the floor blurs
/// lasting differences.
///
/// But users come and go, and what many requests in a row asked for will be asked for again. Where the
/// latest uses differ from the long run by more than chance explains, their share counts instead.
///
/// Evictions are the clock of popularity, and not uses, so that one thing asked for thousands of times
/// a second does not make all others look forgotten.
#[derive(Debug, Default)]
pub struct Gdsf {
    evictions: f64,
    uses: f64,
    /// Of everything.
    popularity: Count,
    recent: Count,
}

impl Gdsf {
    /// Which part of all uses to come is probably this one's.
    fn frequency(&self, usage: &Usage) -> f64 {
        let usual = usage.popularity.share(&self.popularity);
        let recent = usage.recent.share(&self.recent);
        let (expected, seen) = (usual * self.recent.amount, recent * self.recent.amount);
        if (seen - expected).powi(2) > SURPRISE * (expected + 1.0) {
            recent
        } else {
            usual
        }
    }
}

impl Policy for Gdsf {
    fn touch(&mut self, usage: &mut Usage, now: Duration) {
        self.uses += 1.0;
        let seconds = now.as_secs_f64();
        let popularity = self.evictions / HALF_LIFE_EVICTIONS + seconds / HALF_LIFE_SECONDS;
        let recent = self.uses / RECENT_USES + seconds / RECENT_SECONDS;
        for (count, age) in [
            (&mut self.popularity, popularity),
            (&mut usage.popularity, popularity),
            (&mut self.recent, recent),
            (&mut usage.recent, recent),
        ] {
            count.add(age);
        }
        usage.last_use = now;
    }

    #[allow(clippy::cast_precision_loss, reason = "an order, not an account")]
    fn worth(&self, candidate: &Candidate<'_>) -> f64 {
        let saved = self.frequency(&candidate.usage) * candidate.reload.as_secs_f64();
        saved / candidate.bytes.max(1) as f64
    }

    fn evicted(&mut self) {
        self.evictions += 1.0;
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
    let freed: u64 = picked.iter().map(|index| candidates[*index].bytes).sum();
    spare(candidates, &mut picked, freed.checked_sub(need)?);
    Some(picked)
}

/// A candidate's place in the order: the least worth first, then the longest unused, then by name.
struct Turn<'a> {
    worth: f64,
    last_use: Duration,
    name: &'a str,
    index: usize,
}

impl Ord for Turn<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.worth
            .total_cmp(&other.worth)
            .then(self.last_use.cmp(&other.last_use))
            .then(self.name.cmp(other.name))
            .then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Turn<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn<'_> {}

/// Picks the least worth that may go until `need` is covered or nothing is left.
fn greedy(policy: &dyn Policy, candidates: &[Candidate<'_>], need: u64) -> Vec<usize> {
    let turn = |index: usize| {
        let candidate = &candidates[index];
        Reverse(Turn {
            worth: match candidate.suspect {
                true => f64::NEG_INFINITY,
                false => policy.worth(candidate),
            },
            last_use: candidate.usage.last_use,
            name: candidate.name,
            index,
        })
    };
    let mut leases: Vec<usize> = candidates.iter().map(|it| it.leases).collect();
    let may_go = |index: usize, leases: &[usize]| leases[index] == 0 && !candidates[index].pinned;
    // A heap, since seldom more than a few are needed of many.
    let mut free: BinaryHeap<_> = (0..candidates.len())
        .filter(|index| may_go(*index, &leases))
        .map(turn)
        .collect();
    let mut picked = Vec::new();
    let mut freed: u64 = 0;
    while freed < need {
        let Some(Reverse(Turn { index, .. })) = free.pop() else {
            break;
        };
        for held in &candidates[index].holds {
            if leases[*held] > 0 {
                leases[*held] -= 1;
                free.extend(Some(*held).filter(|it| may_go(*it, &leases)).map(turn));
            }
        }
        freed = freed.saturating_add(candidates[index].bytes);
        picked.push(index);
    }
    picked
}

/// Leaves out what can be spared while `surplus` bytes are too many, the largest first: nothing that
/// is still picked may depend on its going.
fn spare(candidates: &[Candidate<'_>], picked: &mut Vec<usize>, mut surplus: u64) {
    let mut goes = vec![false; candidates.len()];
    for index in &*picked {
        goes[*index] = true;
    }
    let needless = |index: usize, goes: &[bool]| {
        let mut held = candidates[index].holds.iter();
        goes[index] && !held.any(|held| goes[*held])
    };
    let places = || picked.iter().enumerate();
    let entry = |(place, index): (usize, &usize)| (candidates[*index].bytes, place);
    let mut needless_ones: BinaryHeap<_> = places()
        .filter(|(_, index)| needless(**index, &goes))
        .map(entry)
        .collect();
    while let Some((bytes, place)) = needless_ones.pop() {
        if bytes > surplus {
            continue;
        }
        surplus -= bytes;
        let spared = picked[place];
        goes[spared] = false;
        if candidates[spared].leases > 0 {
            // Some went only to make its going possible.
            let freed = places().filter(|(_, index)| {
                candidates[**index].holds.contains(&spared) && needless(**index, &goes)
            });
            needless_ones.extend(freed.map(entry));
        }
    }
    picked.retain(|index| goes[*index]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(amount: f64) -> Count {
        Count { amount, age: 0.0 }
    }

    fn candidate(name: &'static str, bytes: u64, last_use: u64) -> Candidate<'static> {
        Candidate {
            name,
            bytes,
            pinned: false,
            leases: 0,
            holds: Vec::new(),
            usage: Usage {
                popularity: count(1.0),
                recent: Count::default(),
                last_use: Duration::from_secs(last_use),
            },
            suspect: false,
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
    fn what_takes_more_than_it_should_goes_before_all_others() {
        let mut leaking = candidate("leaking", 10, 9);
        leaking.suspect = true;
        let candidates = [candidate("old", 10, 1), leaking, candidate("older", 10, 0)];
        for policy in [&Lru as &dyn Policy, &Gdsf::default()] {
            assert_eq!(names(policy, &candidates, 10).unwrap(), ["leaking"]);
        }
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
                popularity: count(9.0),
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

    /// Something had 20 uses at the beginning. Now there is one newcomer a round, used once, after
    /// an eviction or not, and after a pause: how many rounds until it is kept instead.
    fn rounds_until_aged(policy: &mut Gdsf, evictions: bool, pause: Duration) -> u32 {
        let mut popular = candidate("popular", 10, 0);
        popular.usage = Usage::default();
        for _ in 0..20 {
            policy.touch(&mut popular.usage, Duration::ZERO);
        }
        for round in 1..10_000 {
            if evictions {
                policy.evicted();
            }
            let mut newcomer = candidate("newcomer", 10, 0);
            newcomer.usage = Usage::default();
            policy.touch(&mut newcomer.usage, pause * round);
            if choose(policy, &[popular.clone(), newcomer], 10) == Some(vec![0]) {
                return round;
            }
        }
        panic!("the popular one never aged");
    }

    #[test]
    fn gdsf_lets_what_was_once_popular_age_by_evictions_and_by_time() {
        let by_evictions = rounds_until_aged(&mut Gdsf::default(), true, Duration::ZERO);
        assert!((200..900).contains(&by_evictions), "{by_evictions}");
        // 20 uses are worth one after log2(20) = 4.3 half-lives.
        let hour = Duration::from_secs(3600);
        assert_eq!(rounds_until_aged(&mut Gdsf::default(), false, hour), 26);
    }

    /// Uses one after the other, in turns, and says which one `choose` then takes.
    fn victim_after(policy: &mut Gdsf, turns: &[(&'static str, usize)]) -> &'static str {
        let mut all: Vec<Candidate<'static>> = Vec::new();
        for (name, uses) in turns {
            let place = all.iter().position(|it| it.name == *name);
            let place = place.unwrap_or_else(|| {
                let new = Candidate {
                    usage: Usage::default(),
                    ..candidate(name, 10, 0)
                };
                all.push(new);
                all.len() - 1
            });
            for _ in 0..*uses {
                policy.touch(&mut all[place].usage, Duration::ZERO);
            }
        }
        names(policy, &all, 1).unwrap()[0]
    }

    #[test]
    fn gdsf_believes_many_recent_uses_more_than_popularity_but_not_a_few() {
        // "known" has 5 % of all uses.
        let mut usual = [("known", 1), ("main", 19)].repeat(30);
        usual.push(("new", 1));
        assert_eq!(victim_after(&mut Gdsf::default(), &usual), "new");
        usual.push(("new", 7));
        assert_eq!(victim_after(&mut Gdsf::default(), &usual), "known");
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
                        popularity: Count {
                            amount: *frequency as f64,
                            age: *seconds as f64 / 100.0,
                        },
                        recent: count(*seconds as f64),
                        last_use: Duration::from_secs(*seconds),
                    },
                    suspect: seconds % 5 == 0,
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
