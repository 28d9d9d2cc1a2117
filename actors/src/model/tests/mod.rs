//! The module's actors with processes that have the real protocol and a behaviour chosen by the test.

mod draining;
mod fake_host;
mod host_memory;
mod repository;
