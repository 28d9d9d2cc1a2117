//! What happens around every request: it gets an id, a span, a deadline, and one log event.

pub mod observe;
pub mod request_id;

pub use observe::{Observer, observe};
pub use request_id::RequestId;
