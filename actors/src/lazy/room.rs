//! Room for loads: reservations, and evictions where the budget is short.
//!
//! One load at a time looks for room, in the order of their coming, so that no two evict for the
//! same bytes or take each other's. It asks the budget; if that is short, it chooses victims, and
//! asks again whenever something has gone. If what is idle is not enough but what is in use now
//! would be, it waits for a while.

use std::collections::{BTreeSet, VecDeque};

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, SpawnHandle};
use tokio::time::Instant;

use super::error::{AcquireError, Excess, Shortage};
use super::loader::Loader;
use super::metrics::Reason;
use super::policy::{Candidate, choose, evictable};
use super::slot::{Slot, State};
use crate::kernel::pressure::Level;
use crate::kernel::{BudgetError, Reservation, ReservationRequest};

/// How often one load may evict. Once is enough unless sizes turn out wrong; a budget that gives
/// nothing back must not cost all that is loaded.
const EVICTIONS_MAX: u32 = 4;

/// Loads that want room.
#[derive(Default)]
pub(super) struct Room {
    queue: VecDeque<String>,
    head: Option<Head>,
}

/// The load whose turn it is.
struct Head {
    name: String,
    since: Instant,
    evictions: u32,
    /// Since when it can only hope that others end their use.
    hoping_since: Option<Instant>,
    /// Whether nothing could be evicted, so that it may take what is kept free otherwise.
    use_headroom: bool,
    /// Whether it makes do with what its last load took, since there is no room for what its use
    /// took at the most. What grew once must not be shut out for good.
    minimum_only: bool,
    /// Whether the budget is being asked, and whether something has gone since.
    asking: bool,
    outdated: bool,
    /// The end of its patience while it waits, and what to say then.
    timer: Option<SpawnHandle>,
    shortage: Option<Shortage>,
}

impl Loader {
    pub(super) fn queue_for_room(&mut self, name: &str, context: &mut Context<Self>) {
        self.room.queue.push_back(name.to_owned());
        self.next_in_queue(context);
    }

    fn next_in_queue(&mut self, context: &mut Context<Self>) {
        if self.room.head.is_some() {
            return;
        }
        let Some(name) = self.room.queue.pop_front() else {
            return;
        };
        self.room.head = Some(Head {
            name,
            since: Instant::now(),
            evictions: 0,
            hoping_since: None,
            use_headroom: false,
            minimum_only: false,
            asking: false,
            outdated: false,
            timer: None,
            shortage: None,
        });
        self.ask_budget(context);
    }

    /// Something has gone: there may be room now.
    pub(super) fn room_changed(&mut self, context: &mut Context<Self>) {
        match &mut self.room.head {
            Some(head) if head.asking => head.outdated = true,
            Some(_) => self.ask_budget(context),
            None => {}
        }
    }

    /// Something is no longer in use: it may be what a waiting load lacked. The budget is not asked
    /// unless that is so; leases end by the thousands.
    pub(super) fn look_for_victims(&mut self, context: &mut Context<Self>) {
        let waiting = self.room.head.as_ref().filter(|head| !head.asking);
        let Some(shortage) = waiting.and_then(|head| head.shortage) else {
            return;
        };
        let victims = self.victims(missing(&shortage));
        if victims.is_some_and(|victims| !victims.is_empty()) {
            self.ask_budget(context);
        }
    }

    fn ask_budget(&mut self, context: &mut Context<Self>) {
        let Some(head) = &mut self.room.head else {
            return;
        };
        if let Some(timer) = head.timer.take() {
            context.cancel_future(timer);
        }
        let Some(slot) = self.slots.get(&head.name) else {
            return;
        };
        head.asking = true;
        head.outdated = false;
        let answer = self.budget.reserve(ReservationRequest {
            name: head.name.clone(),
            bytes: if head.minimum_only {
                slot.least()
            } else {
                slot.estimate()
            },
            use_headroom: head.use_headroom,
        });
        context.spawn(
            wrap_future::<_, Self>(answer)
                .map(|answer, loader, context| loader.on_budget(answer, context)),
        );
    }

    fn on_budget(&mut self, answer: Result<Reservation, BudgetError>, context: &mut Context<Self>) {
        let Some(head) = &mut self.room.head else {
            return;
        };
        head.asking = false;
        let level = self.pressure.current().level;
        match answer {
            _ if self.stopping.is_cancelled() => self.refuse(&AcquireError::Stopping, context),
            Ok(_) if level == Level::Exhausted => {
                let shortage = Shortage {
                    need: self.slots.get(&head.name).map_or(0, |slot| slot.estimate()),
                    free: 0,
                    evictable: evictable(&self.candidates()),
                    budget: None,
                    level,
                };
                self.refuse(&AcquireError::Short(shortage), context);
            }
            Ok(reservation) => {
                if let Some(head) = self.room.head.take() {
                    self.run_load(&head.name, reservation, context);
                }
                self.next_in_queue(context);
            }
            Err(BudgetError::Short { .. }) if head.outdated => self.ask_budget(context),
            Err(BudgetError::Short { need, free, budget }) => {
                let shortage = Shortage {
                    need,
                    free,
                    evictable: evictable(&self.candidates()),
                    budget: Some(budget),
                    level,
                };
                self.make_room(shortage, context);
            }
            Err(BudgetError::Unavailable) => {
                self.refuse(&AcquireError::BudgetUnavailable, context);
            }
        }
    }

    /// By how much `name` is too large for ever, with everything else gone but what it depends on. Of
    /// that only what is loaded counts, as it was measured: estimates may be far too high.
    pub(super) fn excess(&self, name: &str) -> Option<Excess> {
        let most = self.budget.max_reservable()?;
        let own = self.slots.get(name)?.least();
        let mut needed = BTreeSet::new();
        self.add_needed(name, &mut needed);
        needed.remove(name);
        let held = needed
            .into_iter()
            .filter_map(|name| self.slots.get(name)?.held());
        let need = held.fold(own, |sum, held| sum.saturating_add(held.bytes()));
        (need > most).then_some(Excess { need, most })
    }

    /// Adds `name`, and all that it depends on.
    fn add_needed<'a>(&'a self, name: &'a str, needed: &mut BTreeSet<&'a str>) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if needed.insert(name)
                && let Some(slot) = self.slots.get(name)
            {
                open.extend(slot.resource.depends_on.iter().map(String::as_str));
            }
        }
    }

    fn make_room(&mut self, shortage: Shortage, context: &mut Context<Self>) {
        let head = self.room.head.as_ref();
        if let Some(excess) = head.and_then(|head| self.excess(&head.name)) {
            // Nothing is evicted for it, and it does not wait.
            return self.refuse(&AcquireError::NeverFits(excess), context);
        }
        let missing = missing(&shortage);
        let victims = self.victims(missing);
        let within_reach = self.within_reach();
        let Some(head) = &mut self.room.head else {
            return;
        };
        let refused = AcquireError::Short(shortage);
        head.shortage = Some(shortage);
        if victims.is_none() && !head.use_headroom {
            // Better to use what is kept free than to refuse.
            head.use_headroom = true;
            return self.ask_budget(context);
        }
        let due = match victims {
            _ if shortage.level == Level::Exhausted => return self.refuse(&refused, context),
            // What is under way is enough: nothing to do but to see it come.
            Some(victims) if victims.is_empty() => head.since + self.config.load_deadline,
            Some(victims) if head.evictions < EVICTIONS_MAX => {
                head.evictions += 1;
                head.hoping_since = None;
                let due = head.since + self.config.load_deadline;
                self.evict(&victims, Reason::Room, context);
                due
            }
            _ if within_reach < missing => return self.make_do(shortage, context),
            _ => {
                let patience = self.config.wait_for_room.min(self.config.load_deadline);
                *head.hoping_since.get_or_insert_with(Instant::now) + patience
            }
        };
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return self.make_do(shortage, context);
        }
        let timer = context.run_later(left, Self::lose_patience);
        if let Some(head) = &mut self.room.head {
            head.timer = Some(timer);
        }
    }

    fn lose_patience(&mut self, context: &mut Context<Self>) {
        let Some(head) = &mut self.room.head else {
            return;
        };
        head.timer = None;
        if let Some(shortage) = head.shortage {
            self.make_do(shortage, context);
        }
    }

    /// There is no room for all that the load may come to need: it makes do with the least that it
    /// needs, or is refused if that is what was asked for.
    fn make_do(&mut self, shortage: Shortage, context: &mut Context<Self>) {
        if let Some(head) = &mut self.room.head
            && let Some(slot) = self.slots.get(&head.name)
            && slot.least() < shortage.need
        {
            head.minimum_only = true;
            head.since = Instant::now();
            head.evictions = 0;
            head.hoping_since = None;
            return self.ask_budget(context);
        }
        self.refuse(&AcquireError::Short(shortage), context);
    }

    fn refuse(&mut self, error: &AcquireError, context: &mut Context<Self>) {
        let Some(head) = self.room.head.take() else {
            return;
        };
        if let Some(timer) = head.timer {
            context.cancel_future(timer);
        }
        tracing::warn!(resource = head.name, %error, "no room for a load");
        self.give_up(&head.name, error, context);
        self.next_in_queue(context);
    }

    /// At a stop: those who wait for room wait in vain. The budget's answer, if it is being asked,
    /// will find that out by itself.
    pub(super) fn dismiss_queue(&mut self, context: &mut Context<Self>) {
        for name in std::mem::take(&mut self.room.queue) {
            self.give_up(&name, &AcquireError::Stopping, context);
        }
        if self.room.head.as_ref().is_some_and(|head| !head.asking) {
            self.refuse(&AcquireError::Stopping, context);
        }
    }

    /// Who goes so that `missing` bytes come free: nobody, if what is being unloaded is enough.
    /// `None` when all that may go is not.
    fn victims(&self, missing: u64) -> Option<Vec<String>> {
        let leaving = self.slots.values().filter(|slot| slot.is_unloading());
        let coming: u64 = leaving
            .filter_map(|slot| slot.held())
            .map(|it| it.bytes())
            .sum();
        self.choose(missing.saturating_sub(coming))
    }

    fn choose(&self, bytes: u64) -> Option<Vec<String>> {
        self.choose_of(&self.candidates(), bytes)
    }

    fn choose_of(&self, candidates: &[Candidate<'_>], bytes: u64) -> Option<Vec<String>> {
        let chosen = choose(&*self.policy, candidates, bytes)?;
        let names = chosen
            .iter()
            .map(|index| candidates[*index].name.to_owned());
        Some(names.collect())
    }

    /// As many of the least worth as give `bytes`, or all there are.
    pub(super) fn choose_up_to(&self, bytes: u64) -> Vec<String> {
        let most = evictable(&self.candidates());
        self.choose(bytes.min(most)).unwrap_or_default()
    }

    /// Who of what is in use goes so that `bytes` come free, or all that may: as
    /// [`Self::choose_up_to`], as if callers had no leases.
    pub(super) fn choose_used(&self, bytes: u64) -> Vec<String> {
        let mut candidates = self.candidates();
        for candidate in &mut candidates {
            // Those that are being loaded or unloaded keep what they depend on, too.
            let held = self.slots.values().flat_map(Slot::dependencies);
            candidate.leases = held.filter(|lease| lease.name() == candidate.name).count();
        }
        let bytes = bytes.min(evictable(&candidates));
        self.choose_of(&candidates, bytes).unwrap_or_default()
    }

    /// Everything that is loaded and not yet on its way out, as the policy sees it.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let ready = || {
            let slots = self.slots.iter();
            slots.filter_map(|(name, slot)| match slot.state() {
                State::Ready(held) => Some((name, slot, held)),
                _ => None,
            })
        };
        let names: Vec<&str> = ready().map(|(name, _, _)| name.as_str()).collect();
        ready()
            .map(|(name, slot, held)| {
                let mut usage = slot.usage;
                // Uses go on after a lease was taken.
                usage.last_use = held.uses.last().saturating_duration_since(self.born);
                let holds = held
                    .dependencies
                    .iter()
                    .filter_map(|lease| names.iter().position(|name| *name == lease.name()));
                Candidate {
                    name,
                    bytes: held.bytes(),
                    pinned: slot.resource.pinned,
                    leases: held.uses.held(),
                    holds: holds.collect(),
                    usage,
                    suspect: slot.learned.is_suspect(),
                    reload: slot.meter.counters.average_load_time().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// Bytes that may come free in time: of all that is loaded or being loaded, but for pinned
    /// ones, the load's own dependencies, and what either needs.
    fn within_reach(&self) -> u64 {
        let mut needed = BTreeSet::new();
        let pinned = self.slots.values().filter(|slot| slot.resource.pinned);
        for slot in pinned {
            self.add_needed(&slot.resource.name, &mut needed);
        }
        if let Some(head) = &self.room.head {
            self.add_needed(&head.name, &mut needed);
        }
        let others = self
            .slots
            .iter()
            .filter(|(name, _)| !needed.contains(name.as_str()));
        let entries = others.filter_map(|(_, slot)| slot.reservation());
        entries
            .map(|it| it.entry().reserved().max(it.entry().measured()))
            .sum()
    }

    /// Sends `names` on their way out to make room.
    pub(super) fn evict(&mut self, names: &[String], reason: Reason, context: &mut Context<Self>) {
        for name in names {
            self.policy.evicted();
            self.drain(name, reason, context);
        }
    }
}

/// Bytes to be freed. A refusal means that something is missing, whatever the figures say.
fn missing(shortage: &Shortage) -> u64 {
    shortage.need.saturating_sub(shortage.free).max(1)
}
