//! What the subscriber can be asked.

use serde::Serialize;

use super::subscriptions::{Subscription, Topic};
use crate::kernel::Message;
use crate::kernel::pool::ConnectError;

/// Asks for the messages of a topic. Answers when the server has confirmed it, so that nothing
/// published afterwards is missed.
#[derive(Debug, Clone)]
pub struct Listen {
    /// To what.
    pub topic: Topic,
}

impl Message for Listen {
    type Reply = Result<Subscription, ListenError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Why there is no subscription.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListenError {
    /// There is no server, or it will not have us, and trying again would not change that soon.
    #[error(transparent)]
    Connect(ConnectError),
}

/// Asks how the subscriber does.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberQuery;

impl Message for SubscriberQuery {
    type Reply = SubscriberStatus;
}

/// The subscriber at one moment. Counters begin with its incarnation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriberStatus {
    /// Whether all subscriptions stand.
    pub connected: bool,
    /// Topics that are listened to.
    pub topics: usize,
    /// Those who listen.
    pub listeners: usize,
    /// Messages received.
    pub messages: u64,
    /// Times that the connection was made.
    pub connects: u64,
    /// Failed tries in a row.
    pub failures: u32,
    /// Why the last failed try failed.
    pub last_error: Option<String>,
}
