//! The entries of the journal, within their bounds. Every incarnation of the actor uses the same.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::metrics;
use super::super::record::JobWatch;
use super::super::status::{JobState, JobStatus};
use super::super::store::json_bytes;
use crate::kernel::Timestamp;

/// Entries that are kept.
pub(super) const ENTRIES_MAX: usize = 100;

/// Bytes of one report, as JSON. An entry with a larger one has none.
const REPORT_BYTES_MAX: usize = 256 << 10;

/// Bytes of all entries, as JSON.
const BYTES_MAX: usize = 4 << 20;

/// One job that an operator asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JournalEntry {
    /// The id of the job.
    pub job_id: String,
    /// The name of its kind.
    pub kind: String,
    /// What it does, in a sentence.
    pub description: String,
    /// The network address of the client that asked for it.
    pub requested_by: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ended. `None` while it runs, and if the server ended before it.
    pub ended_at: Option<Timestamp>,
    /// Where it stands.
    pub state: JobState,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// What its work has returned. A job that was ended early may have one too.
    pub report: Option<Value>,
}

impl JournalEntry {
    fn new(status: &JobStatus, requested_by: String) -> Self {
        let mut entry = Self {
            job_id: status.id.as_str().to_owned(),
            kind: status.kind.to_owned(),
            description: status.description.clone(),
            requested_by,
            requested_at: status.created_at,
            ended_at: None,
            state: JobState::Running,
            error: None,
            report: None,
        };
        entry.update(status);
        entry
    }

    fn update(&mut self, status: &JobStatus) {
        self.state = status.state;
        self.ended_at = status.ended_at;
        self.error.clone_from(&status.error);
        let report = status.result.as_ref();
        self.report = report
            .filter(|it| json_bytes(it) <= REPORT_BYTES_MAX)
            .cloned();
        if report.is_some() && self.report.is_none() {
            let text = format!("its report has more than {REPORT_BYTES_MAX} bytes and is not kept");
            self.error.get_or_insert(text);
        }
    }
}

/// An entry, and the job while it runs.
struct Kept {
    /// Shared with those who read or save it.
    entry: Arc<JournalEntry>,
    /// Its bytes as JSON.
    bytes: usize,
    running: Option<JobWatch>,
}

impl Kept {
    fn new(entry: JournalEntry, running: Option<JobWatch>) -> Self {
        Self {
            bytes: json_bytes(&entry),
            entry: Arc::new(entry),
            running,
        }
    }
}

/// All entries, the newest first.
#[derive(Default)]
pub(super) struct Entries {
    kept: VecDeque<Kept>,
    /// Whether the file was read. Until then it must be left as it is.
    pub(super) is_loaded: bool,
    /// Why the entries are not saved.
    pub(super) save_error: Option<String>,
    /// The number of changes, and how many of them are in the file.
    pub(super) changes: u64,
    pub(super) saved: u64,
}

impl Entries {
    /// Adds what the file has: entries of earlier runs of the server.
    pub(super) fn load(&mut self, from_file: Vec<JournalEntry>) {
        self.is_loaded = true;
        for mut entry in from_file {
            if !entry.state.is_final() {
                entry.state = JobState::Failed;
                entry.error = Some("the server ended before the job".to_owned());
            }
            self.kept.push_back(Kept::new(entry, None));
        }
        self.drop_oldest();
    }

    /// Adds a job that has just begun, unless it was added before.
    pub(super) fn add(&mut self, mut watch: JobWatch, requested_by: String) {
        let entry = JournalEntry::new(&watch.current(), requested_by);
        let mut kept = self.kept.iter();
        if kept.any(|kept| kept.entry.job_id == entry.job_id) {
            return;
        }
        let running = (!entry.state.is_final()).then_some(watch);
        self.kept.push_front(Kept::new(entry, running));
        self.changes += 1;
        self.drop_oldest();
    }

    /// Takes over the end of all jobs that have ended.
    pub(super) fn update(&mut self) {
        for kept in &mut self.kept {
            let status = kept.running.as_mut().map(JobWatch::current);
            if let Some(status) = status.filter(|status| status.state.is_final()) {
                let mut entry = JournalEntry::clone(&kept.entry);
                entry.update(&status);
                *kept = Kept::new(entry, None);
                self.changes += 1;
            }
        }
        self.drop_oldest();
    }

    /// The jobs that run.
    pub(super) fn running(&self) -> Vec<JobWatch> {
        let running = self.kept.iter().filter_map(|kept| kept.running.clone());
        running.collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<JournalEntry>> {
        let entries = self.kept.iter().map(|kept| Arc::clone(&kept.entry));
        entries.collect()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are changes that the file does not have.
    pub(super) fn has_changes(&self) -> bool {
        self.saved != self.changes
    }

    /// Takes note of why the file was not read or saved, or that it was.
    pub(super) fn set_save_error(&mut self, error: Option<String>) {
        metrics::set_journal_unsaved(error.is_some());
        self.save_error = error;
    }

    /// Whether the file has the same entries.
    pub(super) fn is_saved(&self) -> bool {
        self.is_loaded && !self.has_changes()
    }

    fn drop_oldest(&mut self) {
        self.kept.truncate(ENTRIES_MAX);
        let mut bytes = 0;
        let mut fits = |kept: &Kept| {
            bytes += kept.bytes;
            bytes <= BYTES_MAX
        };
        let fitting = self.kept.iter().take_while(|kept| fits(kept)).count();
        self.kept.truncate(fitting);
    }
}
