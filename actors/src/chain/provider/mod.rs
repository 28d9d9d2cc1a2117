//! One provider of a chain: an actor that owns all connections to it.

mod fault;
mod messages;
mod view;

pub use fault::{ErrorKind, Fault, Unused};
pub use messages::{Send, SetDrained};
pub use view::{Head, Standing, View};
