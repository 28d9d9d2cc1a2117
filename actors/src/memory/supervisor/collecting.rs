//! Carrying out collections: hosts are asked, or only the allocator of this process is purged.

use std::time::Duration;

use actix::{Context, Handler};

use super::super::history::CollectionReason;
use super::messages::CollectSlack;
use super::round::{Request, RoundKind};
use super::state::MemorySupervisor;
use crate::kernel::Call;
use crate::kernel::pressure::Stage;

/// How long hosts may take to acknowledge: each finishes its forward first.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(10);

impl Handler<Call<CollectSlack>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<CollectSlack>, context: &mut Context<Self>) {
        if let Some((CollectSlack, reply)) = call.accept() {
            self.collector.request(reply);
            self.collect_if_due(context);
        }
    }
}

impl MemorySupervisor {
    /// Begins a collection if one is due and no round is open.
    pub(super) fn collect_if_due(&mut self, context: &mut Context<Self>) {
        if self.round.is_none()
            && let Some(reason) = self.collector.due(&self.shared)
        {
            self.collect(reason, context);
        }
    }

    /// Begins a collection because tasks stall, unless a round is open.
    pub(super) fn collect_on_stall(&mut self, context: &mut Context<Self>) {
        if self.round.is_none() && self.collector.is_due_on_stall() {
            self.collect(CollectionReason::Stall, context);
        }
    }

    fn collect(&mut self, reason: CollectionReason, context: &mut Context<Self>) {
        let replies = self.collector.begin(reason);
        // Hosts trim themselves at rest. Only a request or a stall asks them.
        let asks_hosts = matches!(reason, CollectionReason::Request | CollectionReason::Stall);
        let request = asks_hosts.then(|| Request {
            level: self.shared.history().level(),
            max_stage: Stage::Slack,
            wanted_bytes: 0,
            within: ACKNOWLEDGE_WITHIN,
        });
        let kind = RoundKind::Collection { reason, replies };
        self.begin_round(kind, request, true, context);
    }
}
