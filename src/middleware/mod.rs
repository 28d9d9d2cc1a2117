//! Gives every request an id, a span, a deadline, counters and one log event.

pub mod observe;
pub mod request_id;

pub use observe::{Observer, observe};
pub use request_id::RequestId;
