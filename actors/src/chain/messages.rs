//! What the owner of a chain is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::ChainError;
use super::rpc::{Call, Outcome};
use super::status::ChainStatus;
use super::subscriptions::{Notification, SubscribeError, SubscriptionId, Topic};
use crate::kernel::{EventSender, Message};

/// Serves the calls of one request. Answers in their order. A caller that leaves cancels them.
#[derive(Debug, Clone)]
pub struct Serve {
    /// The calls.
    pub calls: Vec<Arc<Call>>,
    /// Who calls: whose filters count together.
    pub caller: Arc<str>,
}

impl Message for Serve {
    type Reply = Vec<Result<Outcome, ChainError>>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.iter().any(Result::is_err)
    }
}

/// Searches logs for one call of `eth_getLogs`. A caller that leaves cancels it.
#[derive(Debug, Clone)]
pub struct SearchLogs {
    /// The call.
    pub call: Arc<Call>,
    /// Takes the logs, in order, while the search goes on, if they are many: in each part, the members of an array.
    pub parts: mpsc::Sender<Bytes>,
    /// The time until the first part is sent or the answer is there.
    pub within: Duration,
    /// The time for each further step.
    pub step_within: Duration,
}

/// What a search for logs ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Searched {
    /// The answer. It counts also if parts were sent before: then it is an error.
    Whole(Outcome),
    /// All logs were sent as parts.
    Streamed,
}

impl Message for SearchLogs {
    type Reply = Result<Searched, ChainError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Subscribes. Notifications go to the sender, and the subscription ends with it.
pub struct Subscribe {
    /// What is subscribed to.
    pub topic: Topic,
    /// The queue of the connection.
    pub sender: Arc<EventSender<Notification>>,
}

impl Message for Subscribe {
    type Reply = Result<SubscriptionId, SubscribeError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Ends a subscription.
#[derive(Debug, Clone, Copy)]
pub struct Unsubscribe {
    /// Its name.
    pub id: SubscriptionId,
}

impl Message for Unsubscribe {
    /// Whether there was one.
    type Reply = bool;
}

/// Reads the state of the chain.
#[derive(Debug, Clone, Copy)]
pub struct ReadStatus;

impl Message for ReadStatus {
    type Reply = ChainStatus;
    const CANCELLABLE: bool = true;
}

/// Takes a provider out of use, or back into use.
#[derive(Debug, Clone)]
pub struct SetDrained {
    /// The name of the provider.
    pub provider: String,
    /// Whether it is out of use.
    pub is_drained: bool,
}

impl Message for SetDrained {
    /// Whether there is such a provider.
    type Reply = bool;
}
