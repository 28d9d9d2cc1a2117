//! What the owner of a provider is asked.

use std::sync::Arc;

use super::fault::Fault;
use super::status::ProviderStatus;
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::Message;

/// Sends a call. It may go in a batch with others. A caller that leaves cancels it.
#[derive(Debug, Clone)]
pub struct Send {
    /// The call.
    pub call: Arc<Call>,
}

impl Message for Send {
    type Reply = Result<Outcome, Fault>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Takes the provider out of use, or back into use.
#[derive(Debug, Clone, Copy)]
pub struct SetDrained(
    /// Whether it is out of use.
    pub bool,
);

impl Message for SetDrained {
    type Reply = ();
}

/// Asks for the status.
#[derive(Debug, Clone, Copy)]
pub struct ReadStatus;

impl Message for ReadStatus {
    type Reply = ProviderStatus;
    const CANCELLABLE: bool = true;
}
