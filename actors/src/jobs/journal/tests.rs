//! The guarantees of the journal, each as a test. The files are real.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::tests::{MINUTE, test_jobs};
use super::super::{Config, JobState, JobWatch, Jobs};
use super::entries::{ENTRIES_MAX, JournalEntry};
use super::file::JournalFile;
use super::{Journal, JournalStatus, Keep, ReadJournal};
use crate::kernel::testing::TestSystem;
use crate::kernel::{Changes, Handle, Root, SupervisorSpec, Timestamp};

/// Jobs with a journal, in a tree of their own.
struct Test {
    jobs: Handle<Jobs>,
    journal: Handle<Journal>,
    root: Root,
}

impl Test {
    async fn start(system: &TestSystem, path: &Path) -> Self {
        let (config, journal) = (Config::default(), Journal::handle());
        let jobs = Jobs::handle(&config);
        let spec = SupervisorSpec::new("root")
            .child(Journal::child(&journal, path.to_owned()))
            .child(Jobs::child(&jobs, config, Changes::default()));
        let root = system.start(spec).await;
        Self {
            jobs,
            journal,
            root,
        }
    }

    /// Starts a job that ends when it is cancelled, and keeps it.
    async fn keep_one(&self) -> JobWatch {
        let start = test_jobs::start(test_jobs::until_cancelled);
        let watch = self.jobs.ask(start, MINUTE).await.unwrap().unwrap();
        let keep = Keep {
            watch: watch.clone(),
            requested_by: "192.0.2.1".to_owned(),
        };
        // A caller may repeat it.
        self.journal.ask(keep.clone(), MINUTE).await.unwrap();
        self.journal.ask(keep, MINUTE).await.unwrap();
        watch
    }

    async fn read(&self) -> JournalStatus {
        self.journal.ask(ReadJournal, MINUTE).await.unwrap()
    }

    async fn wait_until(&self, condition: impl Fn(&JournalStatus) -> bool) -> JournalStatus {
        loop {
            let status = self.read().await;
            if condition(&status) {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("data").join("journal.json")
}

fn file(folder: &tempfile::TempDir) -> JournalFile {
    JournalFile::new(path(folder))
}

fn entry(number: usize) -> JournalEntry {
    JournalEntry {
        job_id: number.to_string(),
        kind: "test".to_owned(),
        description: "a test".to_owned(),
        requested_by: "192.0.2.1".to_owned(),
        requested_at: Timestamp::now(),
        ended_at: None,
        state: JobState::Succeeded,
        error: None,
        report: None,
    }
}

#[test]
fn a_job_is_in_the_journal_from_its_start_and_gets_its_end_and_outlives_the_actors() {
    let folder = tempfile::tempdir().unwrap();
    TestSystem::real_time(|system| async move {
        let test = Test::start(&system, &path(&folder)).await;
        assert_eq!(test.read().await.entries, []);
        let first = test.keep_one().await;
        let mut second = test.keep_one().await;
        let seen = test.wait_until(|status| status.is_saved).await.entries;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].job_id, second.current().id.as_str());
        assert_eq!(
            (seen[0].state, seen[0].ended_at, &*seen[0].requested_by),
            (JobState::Running, None, "192.0.2.1")
        );
        // The stop cancels the jobs, and the journal gets their ends.
        drop(first);
        test.root.stop().await;

        let test = Test::start(&system, &path(&folder)).await;
        let seen = test.read().await;
        assert!(seen.is_saved);
        for entry in &seen.entries {
            assert_eq!(entry.state, JobState::Cancelled);
            assert_eq!(entry.report, Some(json!("cleaned up")));
            assert!(entry.ended_at.is_some());
        }
        assert_eq!(seen.entries.len(), 2);
        test.root.stop().await;
    });
}

#[test]
fn a_job_that_the_server_did_not_survive_has_failed() {
    let folder = tempfile::tempdir().unwrap();
    let running = JournalEntry {
        state: JobState::Running,
        ..entry(1)
    };
    file(&folder).save(vec![running], 0).unwrap();
    TestSystem::real_time(|system| async move {
        let test = Test::start(&system, &path(&folder)).await;
        let seen = test.read().await.entries.remove(0);
        assert_eq!(seen.state, JobState::Failed);
        assert_eq!(
            seen.error.as_deref(),
            Some("the server ended before the job")
        );
        test.root.stop().await;
    });
}

#[test]
fn the_oldest_entries_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (0..ENTRIES_MAX).map(entry).collect();
    file(&folder).save(entries, 0).unwrap();
    TestSystem::real_time(|system| async move {
        let test = Test::start(&system, &path(&folder)).await;
        let mut watch = test.keep_one().await;
        let seen = test.wait_until(|status| status.is_saved).await;
        assert_eq!(seen.entries.len(), ENTRIES_MAX);
        assert_eq!(seen.entries[0].job_id, watch.current().id.as_str());
        assert_eq!(seen.entries[1].job_id, "0");
        assert_eq!(seen.entries[ENTRIES_MAX - 1].job_id, "98");
        test.root.stop().await;
        assert_eq!(file(&folder).load().unwrap().len(), ENTRIES_MAX);
    });
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_begins() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder).save(vec![entry(1)], 0).unwrap();
    let whole = std::fs::read_to_string(path(&folder)).unwrap();
    let newer = whole.replace("\"version\":1", "\"version\":2");
    let damaged = [&whole[..whole.len() / 2], &newer, "", "null"];
    let asides = ["damaged", "damaged-2", "damaged-3", "damaged-4"];
    for (damaged, aside) in damaged.into_iter().zip(asides) {
        std::fs::write(path(&folder), damaged).unwrap();
        TestSystem::real_time(|system| {
            let path = path(&folder);
            async move {
                let test = Test::start(&system, &path).await;
                assert_eq!(test.read().await.entries, []);
                test.keep_one().await;
                test.wait_until(|status| status.is_saved).await;
                test.root.stop().await;
            }
        });
        let aside = path(&folder).with_extension(format!("json.{aside}"));
        assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
        assert_eq!(file(&folder).load().unwrap().len(), 1);
    }
}

#[test]
fn members_of_a_later_version_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    file(&folder).save(vec![entry(1)], 0).unwrap();
    let whole = std::fs::read_to_string(path(&folder)).unwrap();
    let later = whole.replace("\"kind\"", "\"later\":1,\"kind\"");
    assert_ne!(later, whole);
    std::fs::write(path(&folder), later).unwrap();
    assert_eq!(file(&folder).load().unwrap().len(), 1);
}

#[test]
fn an_older_state_does_not_replace_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    file.save(vec![entry(1), entry(2)], 2).unwrap();
    file.save(vec![entry(1)], 1).unwrap();
    assert_eq!(file.load().unwrap().len(), 2);
}

#[test]
fn without_a_folder_the_entries_are_kept_in_memory_and_the_reader_learns_why() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be.
    std::fs::write(folder.path().join("data"), "").unwrap();
    TestSystem::real_time(|system| async move {
        let test = Test::start(&system, &path(&folder)).await;
        test.keep_one().await;
        let failed = |status: &JournalStatus| status.save_error.is_some();
        let seen = test.wait_until(failed).await;
        assert_eq!((seen.entries.len(), seen.is_saved), (1, false));
        test.root.stop().await;
    });
}

#[test]
fn a_file_that_cannot_be_read_is_left_as_it_is_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let aside = folder.path().join("aside.json");
    JournalFile::new(aside.clone())
        .save(vec![entry(1)], 0)
        .unwrap();
    std::fs::create_dir_all(path(&folder)).unwrap();
    TestSystem::real_time(|system| async move {
        let path = path(&folder);
        let test = Test::start(&system, &path).await;
        // Without a change, too: the file may have entries.
        let seen = test.read().await;
        assert_eq!((seen.entries.len(), seen.is_saved), (0, false));
        assert!(seen.save_error.unwrap().contains("cannot be read"));
        let mut first = test.keep_one().await;
        assert!(!test.read().await.is_saved);
        assert!(path.is_dir());

        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        let mut second = test.keep_one().await;
        let seen = test.wait_until(|status| status.is_saved).await;
        assert_eq!(seen.save_error, None);
        let kept = JournalFile::new(path.clone()).load().unwrap();
        let kept: Vec<_> = kept.iter().map(|it| it.job_id.as_str()).collect();
        let (first, second) = (first.current(), second.current());
        assert_eq!(kept, [second.id.as_str(), first.id.as_str(), "1"]);
        assert_eq!(seen.entries.len(), 3);
        test.root.stop().await;
    });
}

/// The end of a job is written at once, and nobody has to ask for that.
#[test]
fn the_end_of_a_job_tries_a_file_again_that_could_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(path(&folder)).unwrap();
    TestSystem::real_time(|system| async move {
        let path = path(&folder);
        let test = Test::start(&system, &path).await;
        test.keep_one().await;
        std::fs::remove_dir(&path).unwrap();
        // The stop ends the job, and waits for the journal.
        test.root.stop().await;
        let saved = JournalFile::new(path.clone()).load().unwrap();
        assert_eq!(saved.len(), 1);
        assert_eq!(saved[0].state, JobState::Cancelled);
    });
}
