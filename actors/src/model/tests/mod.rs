//! The room's actors over processes that speak the protocol and do what a test tells them.

mod fake;
mod maintenance;
