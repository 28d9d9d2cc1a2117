//! The loader's guarantees, each as a test. The resources are scripted, because the loader itself is
//! under test.

use std::time::Duration;

mod clearing;
mod dry_run;
mod eviction;
mod failure;
mod fixed_budget;
mod metrics;
mod never_fits;
mod pinning;
mod pressure;
mod registering;
mod replacing;
mod reporting;
pub(super) mod scripted;
mod single_flight;
mod stop;
pub(super) mod test_loader;
mod unloading;
mod without_eviction;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
