//! `/api/performance`: the main figures, memory, the lazy loader with preloads and pins, connections, full
//! clean-ups on request, and load tests.

pub(super) mod connections;
pub(super) mod lazy_loader;
pub(super) mod load_test;
pub(super) mod memory;
pub(super) mod metrics;
pub(super) mod optimize;
pub(super) mod pins;
pub(super) mod preload;
mod resource_name;

use headroom_actors::jobs::JobKind;

/// Every kind of job that a request can start.
pub const JOB_KINDS: [JobKind; 3] = [preload::PRELOAD, optimize::OPTIMIZE, load_test::LOAD_TEST];
