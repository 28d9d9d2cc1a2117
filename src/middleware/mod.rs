//! Gives every request an id, a span, a deadline, counters and one log event.

mod observe;
mod request_id;
mod route_class;

pub use observe::{Observer, observe};
pub use route_class::RouteClass;
