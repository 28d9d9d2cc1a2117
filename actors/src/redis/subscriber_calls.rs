//! What the subscriber is asked, and what it answers.

use serde::Serialize;
use utoipa::ToSchema;

use super::subscriptions::{Subscription, Topic};
use crate::kernel::Message;
use crate::kernel::pool::ConnectError;

/// Subscribes to a topic. The reply comes when the server has confirmed the subscription, so that it
/// receives everything published afterwards. It is an error when the server forbids the topic, and when no
/// server can be reached and a retry would not help soon.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The topic.
    pub topic: Topic,
}

impl Message for Subscribe {
    type Reply = Result<Subscription, ConnectError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks for the state of the subscriber.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberQuery;

impl Message for SubscriberQuery {
    type Reply = SubscriberStatus;
}

/// The state of the subscriber. Its counters start at 0 in each incarnation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SubscriberStatus {
    /// Whether it is connected and the server has confirmed all subscriptions.
    pub connected: bool,
    /// The number of topics.
    pub topics: usize,
    /// The number of subscriptions.
    pub listeners: usize,
    /// The number of messages received.
    pub messages: u64,
    /// Messages that a subscription did not get because there was no room. It was told that some are
    /// missing.
    pub dropped: u64,
    /// Topics that the server has refused, because its `ACL` forbids them to this user.
    pub refused: u64,
    /// The number of successful connects.
    pub connects: u64,
    /// The number of failed connects in a row.
    pub failures: u32,
    /// The error of the last failed connect.
    pub last_error: Option<String>,
}
