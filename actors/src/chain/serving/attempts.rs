//! One call, sent to one provider after another until one of them answers it.
//!
//! What counts as an answer is decided here: a result, or an error that is the caller's own. Everything else is a fault of
//! the provider, and the call goes to the next one. A call that changes nothing is sent a second time while the first still
//! runs, if that takes unusually long (`hedging`), or if its provider has stopped answering.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::hedging::delay;
use super::metrics;
use super::selection::{Candidate, Ranked, rank};
use super::{Needs, Serving};
use crate::chain::error::{ChainError, Unusable};
use crate::chain::methods::{Method, Weight};
use crate::chain::provider::{ErrorKind, Fault, Unused};
use crate::chain::rpc::{Call, Outcome};

/// How often a call that runs looks whether its provider has stopped answering.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pause before providers that have failed are asked again, doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a call waits for a provider that it may be sent to.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, for one that may do better than those that had the call.
const PATIENCE_FOR_BETTER: Duration = Duration::from_secs(1);
/// How often it looks for one.
const PATIENCE_STEP: Duration = Duration::from_millis(10);
/// How often a provider may lack a block that is there, beside the attempts that a call has.
const BEHIND_MAX: u32 = 8;
/// How long a second provider may take to find what the first does not know.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(1);

/// An answer, and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The answer.
    pub(super) outcome: Outcome,
    /// The provider. `None` if the answer was kept, or is an error that none did better than.
    pub(super) provider: Option<usize>,
    /// The kind of that error.
    pub(super) fault: Option<ErrorKind>,
}

impl Answer {
    /// A result that was kept.
    pub(super) fn kept(text: Bytes) -> Self {
        Self {
            outcome: Outcome::Result(text),
            provider: None,
            fault: None,
        }
    }
}

/// What has become of a call so far.
struct Attempts {
    /// The providers that have it or had it, in this round.
    tried: Vec<usize>,
    /// Those of them that have not answered.
    running: Vec<usize>,
    /// The time in which the last of them answers most calls.
    usual: Option<Duration>,
    /// How often it was sent.
    asked: u32,
    /// The answer if no provider does better: an error of its own, or that there is no such thing.
    second_best: Option<Outcome>,
    /// The kind of error that it is.
    second_best_kind: Option<ErrorKind>,
    last: Option<Fault>,
    /// Providers that did not have a block that is there.
    behind: u32,
    /// Until when another provider may know what one does not.
    unknown_until: Option<Instant>,
    /// Whether one of those that had it may do better a little later.
    may_pass: bool,
    pause: Duration,
}

impl Serving {
    /// Sends a call until it is answered.
    pub(super) async fn attempt(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        deadline: Instant,
    ) -> Result<Answer, ChainError> {
        self.hedges.earn();
        let mut attempts = Attempts::new();
        let mut running = FuturesUnordered::new();
        let mut hedge_at = None;
        loop {
            if running.is_empty() {
                let Some(next) = self
                    .next(call, method, needs, deadline, &mut attempts)
                    .await?
                else {
                    return attempts.end();
                };
                hedge_at = self.hedge_at(method, &next);
                running.push(self.send_to(call, method, next.candidate.index, deadline));
                attempts.sent_to(&next);
            }
            let look_at = Instant::now() + LOOK_EVERY;
            let wake_at = [hedge_at, attempts.unknown_until].into_iter().flatten();
            let wake_at = wake_at.fold(look_at, Instant::min);
            tokio::select! {
                Some((index, result)) = running.next() => {
                    if matches!(result, Err(Fault::NoMemory)) {
                        return Err(ChainError::Memory);
                    }
                    if let Some(outcome) = attempts.judge(result, needs) {
                        return Ok(Answer {
                            outcome,
                            provider: Some(index),
                            fault: None,
                        });
                    }
                    metrics::failed_over(&self.config.name);
                    attempts.running.retain(|it| *it != index);
                    // Those that still run may have stalled.
                    let may_go_on = method.may_be_repeated()
                        && attempts.asked < self.config.selection.attempts_max;
                    if !running.is_empty()
                        && may_go_on
                        && let Ok(next) = self.best(call, method, needs, &attempts.tried)
                    {
                        running.push(self.send_to(call, method, next.candidate.index, deadline));
                        attempts.sent_to(&next);
                    }
                }
                () = sleep_until(wake_at.min(deadline)) => {
                    let now = Instant::now();
                    if attempts.unknown_until.is_some_and(|until| until.min(deadline) <= now) {
                        return attempts.end();
                    }
                    if now >= deadline {
                        return Err(ChainError::Deadline);
                    }
                    let is_due = hedge_at.is_some_and(|at| at <= now);
                    if is_due {
                        hedge_at = None;
                    }
                    if !method.may_be_repeated() || attempts.asked >= self.config.selection.attempts_max {
                        continue;
                    }
                    let has_stalled = attempts.running.iter().all(|index| {
                        self.upstreams[*index].is_stalled(attempts.usual, now)
                    });
                    // A call at a provider that has stalled fails over, and costs no hedge.
                    let is_sent_again = has_stalled || (is_due && self.hedges.spend());
                    if !is_sent_again {
                        continue;
                    }
                    let Ok(next) = self.best(call, method, needs, &attempts.tried) else {
                        continue;
                    };
                    match has_stalled {
                        true => metrics::failed_over(&self.config.name),
                        false => metrics::hedged(&self.config.name),
                    }
                    running.push(self.send_to(call, method, next.candidate.index, deadline));
                    attempts.sent_to(&next);
                }
            }
        }
    }

    /// Waits for a provider that a call may be sent to.
    pub(super) async fn wait_for_provider(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        deadline: Instant,
    ) -> Result<Ranked, ChainError> {
        let mut attempts = Attempts::new();
        let next = self.next(call, method, needs, deadline, &mut attempts);
        next.await?.ok_or(ChainError::Deadline)
    }

    /// Sends a call to one provider. Returns its index and its answer.
    pub(super) async fn send_to(
        &self,
        call: &Arc<Call>,
        method: Method,
        index: usize,
        deadline: Instant,
    ) -> (usize, Result<Outcome, Fault>) {
        let within = deadline.saturating_duration_since(Instant::now());
        let upstream = &self.upstreams[index];
        let sent = upstream.send(Arc::clone(call), method.weight, within);
        (index, sent.await)
    }

    /// When a call is sent a second time.
    fn hedge_at(&self, method: Method, to: &Ranked) -> Option<Instant> {
        let min = self.config.selection.hedge_delay_min;
        let after = delay(&to.candidate.standing, min);
        method.may_be_repeated().then(|| Instant::now() + after)
    }

    /// The provider for the next attempt. Waits for one, if none can be used now. `None` if there will be no further attempt.
    async fn next(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        deadline: Instant,
        attempts: &mut Attempts,
    ) -> Result<Option<Ranked>, ChainError> {
        let began = Instant::now();
        loop {
            let may_repeat = attempts.asked == 0 || method.may_be_repeated();
            if !may_repeat || attempts.asked >= self.config.selection.attempts_max {
                return Ok(None);
            }
            let unusable = match self.best(call, method, needs, &attempts.tried) {
                Ok(next) => return Ok(Some(next)),
                Err(unusable) => unusable,
            };
            if attempts.unknown_until.is_some() {
                return Ok(None);
            }
            let now = Instant::now();
            if attempts.asked == 0 {
                // If others have waited in vain for long, this call need not wait as well.
                let since = self.unusable_since.get().unwrap_or(now);
                self.unusable_since.set(Some(since));
                if now.saturating_duration_since(since) >= PATIENCE {
                    return Err(ChainError::not_sent(unusable, &call.method));
                }
            }
            let is_late = |patience, pause| now + pause >= (began + patience).min(deadline);
            let patience = match attempts.asked {
                0 => PATIENCE,
                _ => PATIENCE_FOR_BETTER,
            };
            let is_awaited = !attempts.may_pass && unusable.passes_until(began + patience);
            if is_awaited && !is_late(patience, PATIENCE_STEP) {
                sleep_until(now + PATIENCE_STEP).await;
                continue;
            }
            if attempts.asked == 0 {
                return Err(ChainError::not_sent(unusable, &call.method));
            }
            // All have had it. Those that may do better are asked again.
            if !attempts.may_pass || is_late(PATIENCE, attempts.pause) {
                return Ok(None);
            }
            sleep_until(now + attempts.pause).await;
            attempts.pause = (attempts.pause * 2).min(PAUSE_MAX);
            attempts.may_pass = false;
            attempts.tried.clear();
        }
    }

    /// The best provider that can serve a call and has not had it.
    pub(super) fn best(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        tried: &[usize],
    ) -> Result<Ranked, Unusable> {
        let mut ranked = self.ranked(call, method, needs, tried)?;
        let best = ranked.swap_remove(0);
        self.unusable_since.set(None);
        if tried.is_empty() {
            self.first.set(Some(best.candidate.index));
        }
        Ok(best)
    }

    /// The providers that can serve a call and have not had it, best first. At least one.
    pub(super) fn ranked(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        tried: &[usize],
    ) -> Result<Vec<Ranked>, Unusable> {
        let now = Instant::now();
        let mut candidates = Vec::with_capacity(self.upstreams.len());
        let mut reasons = Vec::new();
        for (index, upstream) in self.upstreams.iter().enumerate() {
            if tried.contains(&index) {
                continue;
            }
            match self.candidate(index, &call.method, method.weight, needs, now) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => reasons.push((Arc::clone(&upstream.name), reason)),
            }
        }
        let is_hurried = candidates.iter().all(|it| it.is_stalled) && self.does_nobody_answer(now);
        if is_hurried {
            self.upstreams.iter().for_each(|it| it.view.hurry(now));
        }
        if candidates.is_empty() {
            return Err(Unusable::new(reasons, is_hurried, now));
        }
        Ok(rank(candidates, &self.config.selection, self.first.get()))
    }

    /// Whether no provider answers calls of any kind.
    fn does_nobody_answer(&self, now: Instant) -> bool {
        self.upstreams.iter().all(|it| {
            let unused = it.view.glance(now).unused;
            unused.is_some() || it.is_stalled(None, now)
        })
    }

    /// A provider, if calls of `method` that need `needs` may be sent to it now.
    pub(super) fn candidate(
        &self,
        index: usize,
        method: &str,
        weight: Weight,
        needs: &Needs,
        now: Instant,
    ) -> Result<Candidate, Unused> {
        let upstream = &self.upstreams[index];
        let standing = upstream.view.standing(method, weight, now)?;
        let (lag, revealed) = (self.lag(upstream), self.revealed(upstream));
        needs.check(&standing, revealed, lag, &self.config.selection)?;
        let number = needs.head_min.unwrap_or(u64::MAX);
        let heads = self.heads.borrow();
        if !needs.any_branch && heads.is_on_other_branch(&upstream.name, number) {
            return Err(Unused::OtherBranch);
        }
        Ok(Candidate {
            index,
            lag,
            cost: upstream.cost,
            is_stalled: upstream.is_stalled(standing.p95, now),
            standing,
        })
    }
}

impl Attempts {
    fn new() -> Self {
        Self {
            tried: Vec::new(),
            running: Vec::new(),
            usual: None,
            asked: 0,
            second_best: None,
            second_best_kind: None,
            last: None,
            behind: 0,
            unknown_until: None,
            may_pass: false,
            pause: PAUSE_MIN,
        }
    }

    fn sent_to(&mut self, to: &Ranked) {
        self.tried.push(to.candidate.index);
        self.running.push(to.candidate.index);
        self.usual = to.candidate.standing.p95;
        self.asked += 1;
    }

    /// The answer, if it is one.
    fn judge(&mut self, result: Result<Outcome, Fault>, needs: &Needs) -> Option<Outcome> {
        let fault = match result {
            Ok(Outcome::Result(text)) if needs.must_exist && &*text == b"null" => {
                self.second_best = Some(Outcome::Result(text));
                self.second_best_kind = None;
                self.may_pass = true;
                self.count_behind();
                return None;
            }
            Ok(Outcome::Result(text))
                if needs.may_be_elsewhere && &*text == b"null" && self.unknown_until.is_none() =>
            {
                self.second_best = Some(Outcome::Result(text));
                self.second_best_kind = None;
                self.unknown_until = Some(Instant::now() + UNKNOWN_PATIENCE);
                return None;
            }
            Ok(outcome) => return Some(outcome),
            Err(fault) => fault,
        };
        if matches!(
            &fault,
            Fault::Error {
                kind: ErrorKind::Behind,
                ..
            }
        ) && needs.names_known_block
        {
            self.count_behind();
        }
        // That a range is too large says more than what others say.
        if let Fault::Error { kind, error } = &fault
            && (self.second_best.is_none() || *kind == ErrorKind::Range)
        {
            self.second_best = Some(Outcome::Error(error.clone()));
            self.second_best_kind = Some(*kind);
        }
        self.may_pass |= is_passing(&fault);
        self.last = Some(fault);
        None
    }

    /// A node behind the provider's URL lacks a block that another one has told. The attempt does not count, a few times.
    fn count_behind(&mut self) {
        if self.behind < BEHIND_MAX {
            self.behind += 1;
            self.asked = self.asked.saturating_sub(1).max(1);
        }
    }

    /// What the call ends with if nobody has answered it.
    fn end(self) -> Result<Answer, ChainError> {
        match (self.second_best, self.last) {
            (Some(outcome), _) => Ok(Answer {
                outcome,
                provider: None,
                fault: self.second_best_kind,
            }),
            (None, Some(last)) => Err(ChainError::Failed {
                asked: self.asked,
                last,
            }),
            (None, None) => Err(ChainError::Deadline),
        }
    }
}

/// Whether the provider may do better a little later.
fn is_passing(fault: &Fault) -> bool {
    match fault {
        Fault::Unused(unused) => unused.passes_until(Instant::now() + PATIENCE),
        Fault::Connect(_) | Fault::Timeout(_) | Fault::Torn | Fault::Throttled { .. } => true,
        Fault::Status(status) => *status >= 500,
        Fault::NotRpc(_) | Fault::Owner(_) => true,
        Fault::Error { kind, .. } => *kind == ErrorKind::Behind,
        Fault::Denied(_) | Fault::TooLarge { .. } | Fault::NoMemory => false,
    }
}

impl Unusable {
    fn new(reasons: Vec<(Arc<str>, Unused)>, is_hurried: bool, now: Instant) -> Self {
        let again = reasons.iter().filter_map(|(_, reason)| match reason {
            Unused::CircuitOpen { until } | Unused::Throttled { until } => Some(*until),
            Unused::Unchecked { .. } if is_hurried => Some(now),
            _ => None,
        });
        let retry_after = again.min().map(|at| at.saturating_duration_since(now));
        Self {
            reasons,
            retry_after,
            is_hurried,
        }
    }

    /// Whether one of the providers may be usable by then.
    fn passes_until(&self, limit: Instant) -> bool {
        let mut reasons = self.reasons.iter();
        reasons.any(|(_, reason)| match reason {
            // It is checked soon.
            Unused::CircuitOpen { .. } | Unused::Unchecked { .. } if self.is_hurried => true,
            Unused::Unchecked { .. } => false,
            reason => reason.passes_until(limit),
        })
    }
}

impl Unused {
    /// Whether it may be usable by then.
    fn passes_until(&self, limit: Instant) -> bool {
        match self {
            Self::Unchecked { .. } | Self::Full | Self::Behind { .. } | Self::OtherBranch => true,
            Self::CircuitOpen { until } | Self::Throttled { until } => *until <= limit,
            Self::Drained | Self::WrongChain { .. } | Self::Syncing => false,
            Self::Unsupported | Self::Pruned => false,
        }
    }
}
