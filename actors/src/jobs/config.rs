//! The bounds of jobs.

use std::time::Duration;

/// The bounds of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Jobs that may run at once. Further ones are refused.
    pub running_max: usize,
    /// Finished jobs that are kept.
    pub finished_max: usize,
    /// Bytes of all finished jobs that are kept, as JSON.
    pub finished_bytes_max: usize,
    /// How long a finished job is kept.
    pub finished_age: Duration,
    /// Bytes of one result, as JSON. A job with a larger one has failed.
    pub result_bytes_max: usize,
    /// The latest steps of a job that are kept.
    pub steps_max: usize,
    /// Followers of all jobs together.
    pub followers_max: usize,
    /// How long a job may take to end after it was cancelled or has passed its deadline.
    pub wind_down: Duration,
    /// Calls in flight. Further calls are refused as busy.
    pub in_flight_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            running_max: 8,
            finished_max: 64,
            finished_bytes_max: 8 << 20,
            finished_age: Duration::from_secs(60 * 60),
            result_bytes_max: 1 << 20,
            steps_max: 100,
            followers_max: 64,
            wind_down: Duration::from_secs(5),
            in_flight_max: 1024,
        }
    }
}
