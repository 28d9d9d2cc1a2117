//! The task that follows the transactions that wait for a block.
//!
//! Each provider sees other ones, and tells them only to whom it has given a filter. The filter of one provider is read
//! until that provider fails; then another one gives one. Hashes that were told lately are not told again.

use std::collections::{HashSet, VecDeque};
use std::rc::Weak;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Hub;
use super::subscribers::{Event, Subscribers};
use crate::chain::rpc::Outcome;

const WITHIN: Duration = Duration::from_secs(10);
/// The time between two readings of the filter.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The time before another filter is made after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Hashes that are remembered.
const HASHES_MAX: usize = 16 * 1024;

/// The hashes that were told lately.
#[derive(Default)]
struct Known {
    hashes: HashSet<String>,
    order: VecDeque<String>,
}

impl Known {
    /// Whether this hash is new.
    fn add(&mut self, hash: &str) -> bool {
        if !self.hashes.insert(hash.to_owned()) {
            return false;
        }
        self.order.push_back(hash.to_owned());
        if self.order.len() > HASHES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
        true
    }
}

/// The filter of a provider.
struct Filter {
    provider: usize,
    id: Bytes,
}

/// Follows them as long as somebody subscribes to them.
pub(super) async fn follow(hub: Weak<Hub>) {
    let mut known = Known::default();
    let mut filter: Option<Filter> = None;
    loop {
        let Some(hub) = hub.upgrade() else {
            return;
        };
        if !hub.has(Subscribers::want_pending) {
            hub.pending.end();
            return;
        }
        filter = match filter {
            Some(filter) => hub.read(filter, &mut known).await,
            None => hub.make().await,
        };
        if filter.is_some() {
            hub.pending.is_ready.send_replace(true);
        }
        drop(hub);
        sleep(if filter.is_some() { LOOK_EVERY } else { PAUSE }).await;
    }
}

impl Hub {
    async fn make(&self) -> Option<Filter> {
        let deadline = Instant::now() + WITHIN;
        let method = "eth_newPendingTransactionFilter";
        let (provider, answer) = self.serving.ask_best(method, "[]", deadline).await?;
        match answer {
            Outcome::Result(id) => Some(Filter { provider, id }),
            Outcome::Error(_) => None,
        }
    }

    /// Tells what is new. The filter, unless it is lost.
    async fn read(&self, filter: Filter, known: &mut Known) -> Option<Filter> {
        let deadline = Instant::now() + WITHIN;
        let id = str::from_utf8(&filter.id).ok()?;
        let params = format!("[{id}]");
        let method = "eth_getFilterChanges";
        let answer = self
            .serving
            .ask_one(filter.provider, method, params, deadline);
        let Some(Outcome::Result(text)) = answer.await else {
            return None;
        };
        let hashes: Vec<&str> = serde_json::from_slice(&text).ok()?;
        let mut round = self.round();
        for hash in hashes {
            if known.add(hash) {
                let hash = Bytes::from(format!("\"{hash}\""));
                round.tell(&hash, Event::Pending).await;
            }
        }
        Some(filter)
    }
}
