//! All jobs, within their bounds. Every incarnation of the actor uses the same store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::config::Config;
use super::error::{FollowError, NoSuchJob, StartError};
use super::messages::Start;
use super::metrics;
use super::record::{Ending, Follower, Record};
use super::status::{JobId, JobStatus};

pub(super) struct Store {
    config: Config,
    /// In the order of their start. There are few, so they need no index.
    running: Vec<Running>,
    /// In the order of their end.
    finished: VecDeque<Finished>,
    finished_bytes: usize,
    followers: Arc<Semaphore>,
}

struct Running {
    record: Arc<Record>,
    began: Instant,
}

struct Finished {
    record: Arc<Record>,
    ended: Instant,
    /// The size of its state as JSON.
    bytes: usize,
}

impl Store {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            running: Vec::new(),
            finished: VecDeque::new(),
            finished_bytes: 0,
            followers: Arc::new(Semaphore::new(config.followers_max)),
        }
    }

    /// Adds the job that `start` describes.
    pub(super) fn begin(&mut self, start: &Start) -> Result<Arc<Record>, StartError> {
        let kind = start.kind;
        let same_kind = |job: &&Running| job.record.kind.name == kind.name;
        if kind.exclusive
            && let Some(job) = self.running.iter().find(same_kind)
        {
            return Err(StartError::Exclusive {
                kind: kind.name,
                running: job.record.id.clone(),
            });
        }
        let running = self.running.len();
        if running >= self.config.running_max {
            return Err(StartError::Full { running });
        }
        let record = Arc::new(Record::new(
            kind,
            start.description.clone(),
            start.deadline,
            self.config.steps_max,
        ));
        self.running.push(Running {
            record: Arc::clone(&record),
            began: Instant::now(),
        });
        metrics::record_start(kind.name);
        Ok(record)
    }

    /// Takes note of the end of a job.
    pub(super) fn end(&mut self, id: &JobId, ending: Ending) {
        let position = self.running.iter().position(|job| job.record.id == *id);
        let Some(Running { record, began }) = position.map(|at| self.running.remove(at)) else {
            return;
        };
        let took = began.elapsed();
        record.end(self.bounded(ending));
        let status = record.status();
        tracing::info!(
            job = %id,
            kind = status.kind,
            state = status.state.label(),
            error = status.error,
            seconds = took.as_secs_f64(),
            "job ended"
        );
        metrics::record_end(status.kind, status.state, took);
        let bytes = json_bytes(&*status);
        self.finished_bytes += bytes;
        self.finished.push_back(Finished {
            record,
            ended: Instant::now(),
            bytes,
        });
        self.forget();
    }

    /// Drops a result that is too large. The job has failed then.
    fn bounded(&self, ending: Ending) -> Ending {
        let bytes = ending.result.as_ref().map_or(0, json_bytes);
        let most = self.config.result_bytes_max;
        if bytes <= most {
            return ending;
        }
        Ending::failed(format!(
            "its result has {bytes} bytes, and a job keeps at most {most}"
        ))
    }

    /// The jobs that ran have failed, because the incarnation that ran them has ended.
    pub(super) fn fail_running(&mut self) {
        while let Some(job) = self.running.first() {
            let record = Arc::clone(&job.record);
            record.cancelled.cancel();
            let error = "the actor that ran it was restarted; start it again";
            self.end(&record.id, Ending::failed(error));
        }
    }

    /// Forgets the oldest finished jobs until the rest is within the bounds.
    pub(super) fn forget(&mut self) {
        while let Some(oldest) = self.finished.front() {
            let is_kept = self.finished.len() <= self.config.finished_max
                && self.finished_bytes <= self.config.finished_bytes_max
                && oldest.ended.elapsed() < self.config.finished_age;
            if is_kept {
                return;
            }
            self.finished_bytes -= oldest.bytes;
            self.finished.pop_front();
        }
    }

    /// The time until the oldest finished job has its age. `None` if there is none.
    pub(super) fn time_to_forget(&self) -> Option<Duration> {
        let oldest = self.finished.front()?;
        let age = oldest.ended.elapsed();
        Some(self.config.finished_age.saturating_sub(age))
    }

    pub(super) fn list(&self) -> Vec<Arc<JobStatus>> {
        let running = self.running.iter().rev().map(|job| job.record.status());
        let finished = self.finished.iter().rev().map(|job| job.record.status());
        running.chain(finished).collect()
    }

    pub(super) fn find(&self, id: &str) -> Result<&Arc<Record>, NoSuchJob> {
        let running = self.running.iter().map(|job| &job.record);
        let mut all = running.chain(self.finished.iter().map(|job| &job.record));
        all.find(|record| record.id.as_str() == id).ok_or(NoSuchJob)
    }

    pub(super) fn follow(&self, id: &str) -> Result<Follower, FollowError> {
        let watch = self.find(id)?.watch();
        let followers = self.config.followers_max;
        let place = Arc::clone(&self.followers).try_acquire_owned();
        let place = place.map_err(|_| FollowError::Full { followers })?;
        Ok(Follower {
            watch,
            _place: place,
        })
    }

    /// Asks all jobs to end, the newest first.
    pub(super) fn cancel_all(&self) {
        for job in self.running.iter().rev() {
            job.record.cancel();
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn finished(&self) -> usize {
        self.finished.len()
    }

    pub(super) fn followers(&self) -> usize {
        self.config.followers_max - self.followers.available_permits()
    }
}

/// The length of `value` as JSON.
pub(super) fn json_bytes(value: &impl Serialize) -> usize {
    /// Counts what is written to it.
    struct Count(usize);

    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    // Texts, numbers and trees of them can always be written.
    serde_json::to_writer(&mut count, value).ok();
    count.0
}
