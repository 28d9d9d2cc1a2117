//! `/api/performance`: memory, connections and preloads.

pub(super) mod connections;
pub(super) mod memory;
pub(super) mod preload;
