//! The chain's newest blocks, as its providers tell them, and what ends with them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempts::Answer;
use super::{Serving, metrics};
use crate::chain::block::Block;
use crate::chain::cache::{SharedAnswers, SharedConfig};
use crate::chain::heads::Change;
use crate::chain::provider::{Head, Unused};
use crate::chain::rpc::{Call, Outcome};

/// A provider that throttles for no longer still has a say in what the chain is.
const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// How long one question may take.
pub(super) const WITHIN: Duration = Duration::from_secs(10);
/// The most unknown blocks that are asked for after a gap. If more are unknown, what is known begins anew.
const FILLED_MAX: usize = 512;

/// Something that runs once at a time.
#[derive(Debug, Default)]
pub(super) struct OneAtATime(Rc<Cell<bool>>);

/// It runs until this is dropped.
#[derive(Debug)]
struct Running(Rc<Cell<bool>>);

impl OneAtATime {
    /// Begins it, unless it runs.
    fn begin(&self) -> Option<Running> {
        let has_begun = !self.0.replace(true);
        has_begun.then(|| Running(Rc::clone(&self.0)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Whether the word of a provider counts that is not used for this reason: a short pause does not change the chain.
fn counts(unused: Option<&Unused>, now: Instant) -> bool {
    match unused {
        Some(Unused::Throttled { until }) => *until <= now + SHORT_PAUSE,
        Some(
            Unused::CircuitOpen { .. }
            | Unused::Drained
            | Unused::Syncing
            | Unused::WrongChain { .. },
        ) => false,
        _ => true,
    }
}

impl Serving {
    /// Takes the head that a provider has told.
    pub(in crate::chain) fn told(self: &Rc<Self>, provider: usize, head: &Head) {
        self.head_told_at.send_replace(Some(Instant::now()));
        self.head_awaited_until.set(None);
        let upstream = &self.upstreams[provider];
        let now = Instant::now();
        if let Some(finalized) = upstream.view.glance(now).finalized {
            let mut heads = self.heads.borrow_mut();
            heads.observe_finalized(&upstream.name, finalized);
        }
        let change = self.heads.borrow_mut().observe(&upstream.name, head);
        self.follow(change);
        for upstream in &self.upstreams {
            let is_used = counts(upstream.view.glance(now).unused.as_ref(), now);
            let change = self.heads.borrow_mut().set_used(&upstream.name, is_used);
            self.follow(change);
        }
        self.filters.borrow_mut().sweep(now);
        self.fill_gap();
        self.look_for_first();
    }

    /// Uses the answers of other servers once the first block is known: a chain for development that begins anew has the
    /// same id, and is another chain.
    fn look_for_first(self: &Rc<Self>) {
        let Some(store) = self.shared_store.clone() else {
            return;
        };
        if self.shared.borrow().is_some() || self.is_shared_wrong.get() {
            return;
        }
        if let Some(running) = self.looks_for_first.begin() {
            let serving = Rc::clone(self);
            self.spawn(async move {
                let _running = running;
                let params = "[\"0x0\",false]".to_owned();
                if let Some(first) = serving.block("eth_getBlockByNumber", params).await {
                    let (id, config) = (serving.config.id, SharedConfig::default());
                    let account = Arc::clone(&serving.buffers);
                    let shared = SharedAnswers::new(store, id, first.hash, config, account);
                    serving.shared.replace(Some(shared));
                }
            });
        }
    }

    fn follow(&self, change: Change) {
        if let Change::Reorganised { from } = change
            && self.heads.borrow().finalized() >= Some(from)
        {
            // What was stored as final is not.
            self.shared.replace(None);
            self.is_shared_wrong.set(true);
        }
        let heads = self.heads.borrow();
        self.cache.borrow_mut().follow(change, &heads);
        self.filters.borrow_mut().follow(change);
        if matches!(change, Change::Reorganised { .. }) {
            // What was revealed may be of the other branch.
            self.upstreams.iter().for_each(|it| it.revealed.set(0));
        }
        if change != Change::Nothing {
            self.new_head.notify_waiters();
            if let Some(head) = heads.head() {
                metrics::set_head(&self.config.name, head.number);
            }
        }
    }

    /// Asks for the blocks that are unknown between two heads, in a task of its own.
    fn fill_gap(self: &Rc<Self>) {
        if self.heads.borrow().missing().is_none() {
            return;
        }
        let Some(running) = self.fills_gap.begin() else {
            return;
        };
        let serving = Rc::clone(self);
        self.spawn(async move {
            let _running = running;
            for _ in 0..FILLED_MAX {
                let Some(missing) = serving.heads.borrow().missing() else {
                    break;
                };
                let params = format!("[\"{}\",false]", missing.hash);
                let Some(block) = serving.block("eth_getBlockByHash", params).await else {
                    break;
                };
                let change = serving.heads.borrow_mut().fill(block);
                serving.follow(change);
            }
        });
    }

    /// As [`Self::catch_up`], in a task of its own.
    pub(super) fn begin_to_catch_up(self: &Rc<Self>) {
        if self.shown() <= self.agreed() {
            return;
        }
        if let Some(running) = self.catches_up.begin() {
            let serving = Rc::clone(self);
            self.spawn(async move {
                let _running = running;
                serving.catch_up().await;
            });
        }
    }

    /// Waits until the agreed head is the newest block that an answer has revealed. Asks the provider that has revealed it, as
    /// it may not tell its next head for a while.
    pub(super) async fn catch_up(self: &Rc<Self>) {
        let agreed = self.agreed();
        let mut upstreams = self.upstreams.iter().enumerate();
        let ahead =
            upstreams.find(|(_, it)| agreed.is_some_and(|agreed| self.revealed(it) > agreed));
        let Some((provider, upstream)) = ahead else {
            return;
        };
        let deadline = Instant::now() + WITHIN;
        let params = "[\"latest\",false]".to_owned();
        let answer = self.ask_one(provider, "eth_getBlockByNumber", params, deadline);
        let Some(Outcome::Result(text)) = answer.await else {
            return;
        };
        if let Some(block) = Block::read(&text) {
            // It does not have what it has revealed.
            let revealed = upstream.revealed.get();
            upstream.revealed.set(revealed.min(block.number));
            let seen_at = Instant::now();
            self.told(provider, &Head { block, seen_at });
        }
    }

    /// The newest block of the chain.
    pub(in crate::chain) fn head(&self) -> Option<Block> {
        self.heads.borrow().head()
    }

    /// Asks the best provider for its newest block. Returns the number of that block.
    pub(in crate::chain) async fn look_for_head(self: &Rc<Self>) -> Option<u64> {
        let (method, params) = ("eth_getBlockByNumber", "[\"latest\",false]");
        let asked = self.ask_best(method, params, Instant::now() + WITHIN).await;
        let Ok(Answer {
            outcome: Outcome::Result(text),
            provider: Some(provider),
            ..
        }) = asked
        else {
            return None;
        };
        let block = Block::read(&text)?;
        // Whether the chain has gone back is left to the checks: behind one URL there may be nodes that are not equally far.
        if self.agreed().is_none_or(|agreed| block.number >= agreed) {
            let seen_at = Instant::now();
            self.told(provider, &Head { block, seen_at });
        }
        Some(block.number)
    }

    pub(super) async fn block(&self, method: &str, params: String) -> Option<Block> {
        let call = Arc::new(Call::new(method, params));
        match self.ask(&call, None, Instant::now() + WITHIN).await.ok()? {
            Outcome::Result(text) => Block::read(&text),
            Outcome::Error(_) => None,
        }
    }
}
