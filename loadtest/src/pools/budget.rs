//! An unlimited memory budget, for the private servers.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use headroom_actors::kernel::{
    Budget, BudgetError, Reservation, ReservationEntry, ReservationRequest,
};

/// Grants every request.
pub(super) struct Unlimited;

impl Budget for Unlimited {
    fn reserve(
        &self,
        claim: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let reservation = Reservation::new(Arc::new(Granted(claim.bytes)));
        std::future::ready(Ok(reservation)).boxed()
    }
}

struct Granted(u64);

impl ReservationEntry for Granted {
    fn attach(&self, _pid: i32) {}

    fn detach(&self, _pid: i32) {}

    fn set_reserved(&self, _bytes: u64) {}

    fn reserved(&self) -> u64 {
        self.0
    }

    fn measured(&self) -> u64 {
        0
    }

    fn peak(&self) -> u64 {
        0
    }

    fn release(&self) {}
}
