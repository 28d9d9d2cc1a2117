//! The guarantees of jobs, each as a test.

use std::time::Duration;

mod bounds;
mod ending;
mod following;
mod restart;
pub(super) mod test_jobs;

const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
