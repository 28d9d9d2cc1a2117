//! The actor that reads memory, grants reservations and publishes the level.
//!
//! One actor does all three, since they depend on each other: a reading can change the level, a reservation
//! can need a reading, and at most one reading is under way. The ledger and the history are outside of
//! the actor ([`Shared`](super::shared::Shared)): they survive its restart, and a reservation is given
//! back without it.
//!
//! `docs/memory-pressure.md` draws how the parts work together.

mod calls;
mod clean_up;
mod collecting;
mod collector;
mod level;
mod messages;
mod reading;
mod round;
mod rounds;
mod stalls;
mod state;

pub use self::messages::{CollectSlack, Reconfigure, Reserve, RoundReport, Sample};
pub use self::state::MemorySupervisor;
