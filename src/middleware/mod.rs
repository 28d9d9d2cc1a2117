//! Gives every request an id, a span, a deadline, counters and one log event, and refuses
//! what the pages of other sites send.

pub(crate) mod cross_site;
mod expectation;
mod hosts;
mod observe;
mod request_id;
mod upgrade;

pub use hosts::{Hosts, answer_to_known_hosts};
pub use observe::{Observer, observe};
pub(crate) use request_id::new_request_id;
