//! A pool as its callers use it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actor::{Checkout, Pool};
use super::board::Board;
use super::config::PoolConfig;
use super::connect::Connect;
use super::error::CheckoutError;
use super::lease::{Lease, Mode};
use super::sharing::{SharingRules, takes_users};
use crate::kernel::pressure::PressureReader;
use crate::kernel::{ChildSpec, Handle};

/// How long a stop may take after `drain_timeout`, before the supervisor kills the actor.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A pool of connections to one server. Clones are cheap and refer to the same pool. It stays valid when the
/// pool's actor is restarted, and gives all that the actor's [`Handle`] gives.
pub struct PoolHandle<C: Connect> {
    actor: Handle<Pool<C>>,
    shared: Arc<Shared<C>>,
}

struct Shared<C: Connect> {
    config: PoolConfig,
    connect: Arc<C>,
    board: Arc<Board<C::Connection>>,
}

impl<C: Connect> Clone for PoolHandle<C> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C: Connect> fmt::Debug for PoolHandle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolHandle({})", self.actor.name())
    }
}

impl<C: Connect> Deref for PoolHandle<C> {
    type Target = Handle<Pool<C>>;

    fn deref(&self) -> &Handle<Pool<C>> {
        &self.actor
    }
}

impl<C: Connect> PoolHandle<C> {
    /// A pool called `name`. This opens nothing. [`PoolHandle::child`] owns the connections.
    pub fn new(name: impl Into<String>, config: PoolConfig, connect: impl Into<Arc<C>>) -> Self {
        // Each waiter holds a call permit. The rest is for calls that are about to be refused.
        let capacity = config.waiting_max.saturating_mul(2).saturating_add(64);
        let board = Arc::new(Board::new(SharingRules::from(&config)));
        Self {
            actor: Handle::new(name, capacity),
            shared: Arc::new(Shared {
                config,
                connect: connect.into(),
                board,
            }),
        }
    }

    /// The owner of the connections, as a child of a supervisor. With `pressure`, it closes idle
    /// connections when memory is short.
    pub fn child(&self, pressure: Option<PressureReader>) -> ChildSpec {
        let (name, shared) = (self.actor.name().to_owned(), Arc::clone(&self.shared));
        let deadline = shared.config.drain_timeout + STOP_GRACE;
        ChildSpec::actor(&self.actor, move |_| {
            let (connect, board) = (Arc::clone(&shared.connect), Arc::clone(&shared.board));
            Pool::new(
                &name,
                shared.config.clone(),
                connect,
                board,
                pressure.clone(),
            )
        })
        .shutdown_deadline(deadline)
    }

    /// Takes a connection for `holder`, and waits at most `within` for one.
    ///
    /// A caller for shared use may join others on a connection without a message to the actor. The actor
    /// does not know how long such a lease lasts, so this is only for callers that end before the time
    /// after which a lease counts as leaked.
    ///
    /// # Errors
    /// See [`CheckoutError`].
    pub async fn check_out(
        &self,
        mode: Mode,
        holder: &'static Location<'static>,
        within: Duration,
    ) -> Result<Lease<C::Connection>, CheckoutError> {
        let shared = &*self.shared;
        if mode == Mode::Shared && within <= shared.config.leak_after {
            let takes_users = |connection: &_| takes_users(&*shared.connect, connection);
            if let Some(user) = shared.board.join(Instant::now(), takes_users) {
                return Ok(Lease::shared(user, None));
            }
        }
        let checkout = Checkout {
            mode,
            holder,
            connection: PhantomData,
        };
        self.actor.ask(checkout, within).await?
    }
}
