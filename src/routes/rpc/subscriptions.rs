//! The subscriptions of a connection, and which of their notifications its client can understand now.

use std::collections::BTreeSet;

use headroom_actors::chain::{Notification, SubscriptionId};

/// The most subscriptions of one connection.
pub(super) const SUBSCRIPTIONS_MAX: usize = 128;

/// How many of those that have ended are remembered.
const ENDED_MAX: usize = 1024;

/// The subscriptions of one connection.
#[derive(Default)]
pub(super) struct Subscriptions {
    /// Those whose ids the client knows.
    known: BTreeSet<SubscriptionId>,
    /// Calls of `eth_subscribe` without an answer yet.
    beginning: usize,
    /// Those that have ended while others begin. Ids are never given twice.
    ended: BTreeSet<SubscriptionId>,
    /// A notification whose id the client may be about to learn. Those after it wait in their queue.
    early: Option<Notification>,
}

impl Subscriptions {
    /// Takes a place for one. Returns whether there is one; [`Self::begun`] must follow.
    pub(super) fn begin(&mut self) -> bool {
        let has_place = self.known.len() + self.beginning < SUBSCRIPTIONS_MAX;
        self.beginning += usize::from(has_place);
        has_place
    }

    /// A call of `eth_subscribe` was answered: with this id, or with an error. Returns the notification that has waited for
    /// that.
    pub(super) fn begun(&mut self, id: Option<SubscriptionId>) -> Option<Notification> {
        self.beginning -= 1;
        self.known.extend(id);
        if self.beginning == 0 {
            self.ended.clear();
        }
        self.early.take().and_then(|early| self.pass(early))
    }

    /// Ends one. Returns whether there was one.
    pub(super) fn end(&mut self, id: SubscriptionId) -> bool {
        let was_known = self.known.remove(&id);
        if was_known && self.beginning > 0 && self.ended.len() < ENDED_MAX {
            self.ended.insert(id);
        }
        if self.early.as_ref().is_some_and(|it| it.subscription == id) {
            self.early = None;
        }
        was_known
    }

    /// Whether the next notification may be read.
    pub(super) fn takes_notifications(&self) -> bool {
        self.early.is_none()
    }

    /// The notification, if it can be sent now. One whose id may still become known waits; one that has ended is dropped.
    pub(super) fn pass(&mut self, notification: Notification) -> Option<Notification> {
        if self.known.contains(&notification.subscription) {
            return Some(notification);
        }
        if self.beginning > 0 && !self.ended.contains(&notification.subscription) {
            self.early = Some(notification);
        }
        None
    }

    /// All whose ids the client knows.
    pub(super) fn take(&mut self) -> BTreeSet<SubscriptionId> {
        std::mem::take(&mut self.known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn id(number: u8) -> SubscriptionId {
        format!("0x{number:x}").parse().unwrap()
    }

    fn notification(number: u8) -> Notification {
        Notification {
            subscription: id(number),
            result: "null".into(),
        }
    }

    fn passes(passed: Option<Notification>) -> Option<SubscriptionId> {
        passed.map(|it| it.subscription)
    }

    #[test]
    fn no_notification_comes_before_the_answer_that_has_its_id() {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.begin() && subscriptions.begin());
        assert_eq!(passes(subscriptions.pass(notification(1))), None);
        assert!(!subscriptions.takes_notifications());
        // The other one is answered first.
        assert_eq!(passes(subscriptions.begun(Some(id(2)))), None);
        assert!(!subscriptions.takes_notifications());
        assert_eq!(passes(subscriptions.begun(Some(id(1)))), Some(id(1)));
        assert!(subscriptions.takes_notifications());
        assert_eq!(passes(subscriptions.pass(notification(2))), Some(id(2)));
    }

    #[test]
    fn notifications_of_what_has_ended_or_failed_are_dropped() {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.begin());
        assert_eq!(passes(subscriptions.begun(Some(id(1)))), None);
        assert!(subscriptions.end(id(1)) && !subscriptions.end(id(1)));
        assert_eq!(passes(subscriptions.pass(notification(1))), None);
        assert!(subscriptions.takes_notifications());
        assert!(subscriptions.begin());
        assert_eq!(passes(subscriptions.pass(notification(3))), None);
        assert_eq!(passes(subscriptions.begun(None)), None);
        assert!(subscriptions.takes_notifications());
    }

    #[test]
    fn one_that_has_ended_holds_up_no_other() {
        let mut subscriptions = Subscriptions::default();
        assert!(subscriptions.begin());
        subscriptions.begun(Some(id(1)));
        assert!(subscriptions.begin());
        assert!(subscriptions.end(id(1)));
        assert_eq!(passes(subscriptions.pass(notification(1))), None);
        assert!(subscriptions.takes_notifications());
    }

    #[test]
    fn those_without_an_answer_count_too() {
        let mut subscriptions = Subscriptions::default();
        assert!((0..SUBSCRIPTIONS_MAX).all(|_| subscriptions.begin()));
        assert!(!subscriptions.begin());
        subscriptions.begun(Some(id(1)));
        assert!(!subscriptions.begin());
        assert!(subscriptions.end(id(1)) && subscriptions.begin());
        assert!(subscriptions.take().is_empty());
    }
}
