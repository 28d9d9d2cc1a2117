//! The task that tells the transactions that wait for a block.

use std::rc::Weak;
use std::time::Duration;

use tokio::time::timeout;

use super::Hub;
use super::subscribers::{Event, Subscribers};

/// How often it looks whether somebody still subscribes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells them from the number `next` on, as long as somebody subscribes to them.
pub(super) async fn tell(hub: Weak<Hub>, mut next: u64) {
    loop {
        let Some(hub) = hub.upgrade() else {
            return;
        };
        if !hub.has(Subscribers::want_pending) {
            hub.tells_pending.set(false);
            return;
        }
        let mut grown = hub.serving.pending_next();
        let hashes: Vec<_> = {
            let hashes = hub.serving.pending_hashes();
            let fresh = hashes.since(next).collect();
            next = hashes.next();
            fresh
        };
        let mut round = hub.round();
        for hash in hashes {
            let hash = format!("\"{hash}\"").into_bytes();
            round.tell(hash, Event::Pending).await;
        }
        drop(hub);
        // Also what came meanwhile counts.
        drop(timeout(LOOK_EVERY, grown.changed()).await);
    }
}
