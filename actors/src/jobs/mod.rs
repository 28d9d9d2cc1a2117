//! Jobs: work that a caller starts and that outlasts the request that started it.
//!
//! Why it exists: a preload or a clean-up takes longer than a request may. The caller gets the id of
//! a job at once, and can look at the job, follow it or cancel it from any connection.
//!
//! Guarantees:
//! - **Bounds**: the number of running jobs, of followers, of finished jobs that are kept (by count,
//!   age and bytes), of the steps of a job and of the bytes of its result.
//! - **Every job ends.** It has a deadline. A job that was cancelled or has passed its deadline may
//!   wind down for [`Config::wind_down`] and is then aborted. If its progress says that all of its work
//!   was done before, it ends as if nobody had cancelled it.
//! - **A job harms nothing else.** Its panic makes it failed.
//! - **Followers see the present state.** A slow one misses states and never the last one.
//! - **Jobs survive the actor.** When the actor is restarted, the jobs that ran are failed, and those
//!   that had ended are still there.
//! - **A stop is orderly**: it cancels all jobs, the newest first, and waits for their end.
//!
//! Not guaranteed: no job survives the process, and work must not block its thread, which is that of
//! all actors.
//!
//! Layout: [`Jobs`] is the actor, and `run` runs the work of one job. `store` keeps all jobs for all
//! incarnations; `record` is one job in it, shared with its work ([`JobContext`]) and its followers
//! ([`JobWatch`]). `journal` keeps what operators must know later.

mod actor;
mod config;
mod context;
mod error;
mod journal;
mod messages;
mod metrics;
mod record;
mod run;
mod status;
mod store;
#[cfg(test)]
mod tests;

pub use actor::Jobs;
pub use config::Config;
pub use context::{JobContext, StepInProgress};
pub use error::{FollowError, NoSuchJob, StartError};
pub use journal::{Journal, JournalEntry, JournalStatus, Keep, ReadJournal, ReadSaveError};
pub use messages::{Cancel, Drain, Follow, Get, List, Start};
pub use metrics::{METRICS, start_at_zero};
pub use record::{Follower, JobWatch};
pub use run::{Work, WorkError, WorkResult};
pub use status::{JobId, JobKind, JobState, JobStatus, JobSummary, Progress, Step, StepResult};
