//! `/api/performance`: memory and connections.

pub(super) mod connections;
pub(super) mod memory;
