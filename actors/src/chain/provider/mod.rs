//! One provider of a chain: an actor that owns all connections to it.

mod actor;
mod fault;
mod messages;
mod view;

pub use actor::Provider;
pub use fault::{ErrorKind, Fault, Unused};
pub use messages::{Send, SetDrained};
pub use view::{Head, Standing, View};
