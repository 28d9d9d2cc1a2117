//! A provider as the chain uses it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::chain::config::ProviderConfig;
use crate::chain::methods::Weight;
use crate::chain::provider::{Fault, Head, Provider, Send, View};
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::Handle;

/// A provider that has light calls and answers none of them for so many times its usual time is stalled.
const STALLED_TIMES: u32 = 8;
/// The shortest such time, and the one of a provider whose usual time is not known.
const STALLED_AFTER: Duration = Duration::from_millis(500);
const STALLED_AFTER_UNKNOWN: Duration = Duration::from_secs(2);

/// A provider as the chain uses it.
pub(in crate::chain) struct Upstream {
    /// Its name.
    pub(in crate::chain) name: Arc<str>,
    /// The scheme, host and port of its URL.
    pub(in crate::chain) url: String,
    /// What a call costs.
    pub(in crate::chain) cost: f64,
    /// Its actor.
    pub(in crate::chain) handle: Handle<Provider>,
    /// How it does.
    pub(in crate::chain) view: Arc<dyn View>,
    /// Its newest block.
    pub(in crate::chain) told: watch::Receiver<Option<Head>>,
    /// The newest block that one of its answers has revealed.
    pub(in crate::chain) revealed: Cell<u64>,
    /// How many light calls it has now, and since when it has answered none of them.
    waiting: Cell<u32>,
    silent_since: Cell<Option<Instant>>,
}

impl Upstream {
    pub(in crate::chain) fn new(
        config: &ProviderConfig,
        handle: Handle<Provider>,
        view: Arc<dyn View>,
        told: watch::Receiver<Option<Head>>,
    ) -> Self {
        Self {
            name: config.name.as_str().into(),
            url: config.url.shown(),
            cost: config.cost,
            handle,
            view,
            told,
            revealed: Cell::new(0),
            waiting: Cell::new(0),
            silent_since: Cell::new(None),
        }
    }

    /// Sends a call.
    pub(in crate::chain) async fn send(
        &self,
        call: Arc<Call>,
        weight: Weight,
        within: Duration,
    ) -> Result<Outcome, Fault> {
        let waiting = (weight < Weight::Heavy).then(|| Waiting::new(self));
        let answer = self.handle.ask(Send { call }, within).await;
        if waiting.is_some() {
            self.silent_since.set(Some(Instant::now()));
        }
        answer?
    }

    /// Whether it has calls and answers none of them, although most take no longer than `usual`.
    pub(in crate::chain) fn is_stalled(&self, usual: Option<Duration>, now: Instant) -> bool {
        let limit = usual.map_or(STALLED_AFTER_UNKNOWN, |usual| {
            (usual * STALLED_TIMES).max(STALLED_AFTER)
        });
        let silent = self.silent_since.get();
        silent.is_some_and(|since| now.saturating_duration_since(since) > limit)
    }
}

/// A call that waits for its answer.
struct Waiting<'upstream>(&'upstream Upstream);

impl<'upstream> Waiting<'upstream> {
    fn new(upstream: &'upstream Upstream) -> Self {
        upstream.waiting.set(upstream.waiting.get() + 1);
        if upstream.silent_since.get().is_none() {
            upstream.silent_since.set(Some(Instant::now()));
        }
        Self(upstream)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Self(upstream) = self;
        let waiting = upstream.waiting.get() - 1;
        upstream.waiting.set(waiting);
        // A call that its caller has cancelled says nothing about the others.
        if waiting == 0 {
            upstream.silent_since.set(None);
        }
    }
}
