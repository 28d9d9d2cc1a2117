//! The messages that a pool answers.

use std::marker::PhantomData;
use std::panic::Location;

use super::error::CheckoutError;
use super::lease::{Lease, Mode};
use super::status::PoolStatus;
use crate::kernel::Message;

/// Asks for a lease on a connection of type `T`, and waits for one until the call's deadline.
pub struct Checkout<T> {
    /// How the connection will be used.
    pub mode: Mode,
    /// The place in the code that holds the lease. The log names it when the lease lasts too long.
    pub holder: &'static Location<'static>,
    pub(super) connection: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Message for Checkout<T> {
    type Reply = Result<Lease<T>, CheckoutError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks for the pool's [`PoolStatus`].
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = PoolStatus;
}
