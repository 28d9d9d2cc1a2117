//! What a pool can be asked.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::time::Duration;

use serde::Serialize;

use super::connect::Connect;
use super::error::CheckoutError;
use super::lease::Lease;
use super::owner::Pool;
use super::status::PoolStatus;
use crate::kernel::{Handle, Message};

/// How a connection is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By nobody else until the lease ends: for transactions.
    Exclusive,
    /// Together with others: for single requests over a connection that can carry many at once.
    Shared,
}

/// Asks for a connection to a `T`. Waits until there is one, at most as long as the ask does.
pub struct Checkout<T> {
    /// How it will be used.
    pub mode: Mode,
    /// The place in the code that takes it, named when it keeps it for too long.
    pub holder: &'static Location<'static>,
    connection: PhantomData<fn() -> T>,
}

impl<T> Checkout<T> {
    /// A checkout whose holder is the caller.
    #[track_caller]
    pub fn new(mode: Mode) -> Self {
        Self::with_holder(mode, Location::caller())
    }

    /// A checkout for `holder`.
    pub fn with_holder(mode: Mode, holder: &'static Location<'static>) -> Self {
        Self {
            mode,
            holder,
            connection: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Checkout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkout({:?}, {})", self.mode, self.holder)
    }
}

impl<T: Send + Sync + 'static> Message for Checkout<T> {
    type Reply = Result<Lease<T>, CheckoutError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks `pool` for a connection, with the caller as its holder, and waits at most `within`.
///
/// # Errors
/// See [`CheckoutError`].
#[track_caller]
pub fn check_out<C: Connect>(
    pool: &Handle<Pool<C>>,
    mode: Mode,
    within: Duration,
) -> impl Future<Output = Result<Lease<C::Connection>, CheckoutError>> + Send + use<C> {
    let checkout = Checkout::<C::Connection>::new(mode);
    let pool = pool.clone();
    async move { pool.ask(checkout, within).await? }
}

/// Asks how the pool does.
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = PoolStatus;
}
