//! Gives every request an id, a span, a deadline, counters and one log event.

mod observe;
mod request_id;

pub use observe::{Observer, observe};
