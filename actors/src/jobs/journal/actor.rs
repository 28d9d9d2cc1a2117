//! The actor of the journal.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::super::metrics;
use super::super::record::JobWatch;
use super::entries::{ENTRIES_MAX, Entries, JournalEntry};
use super::file::JournalFile;
use crate::kernel::{Call, Child, ChildSpec, Exit, Handle, Message, Reply};

/// Calls in flight.
const CALLS_MAX: u32 = 64;

/// Keeps a job that has just begun, and later its end. A job is kept once.
#[derive(Debug, Clone)]
pub struct Keep {
    /// The job.
    pub watch: JobWatch,
    /// The network address of the client that asked for it.
    pub requested_by: String,
}

impl Message for Keep {
    type Reply = ();
}

/// Asks for all entries.
#[derive(Debug)]
pub struct ReadJournal;

impl Message for ReadJournal {
    type Reply = JournalStatus;
    const CANCELLABLE: bool = true;
}

/// Asks why the journal was not read or saved at the last try. Unlike [`ReadJournal`], it causes no other.
#[derive(Debug)]
pub struct ReadSaveError;

impl Message for ReadSaveError {
    type Reply = Option<String>;
    const CANCELLABLE: bool = true;
}

/// The journal at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct JournalStatus {
    /// All entries, the newest first.
    pub entries: Vec<Arc<JournalEntry>>,
    /// Entries that are kept at most. The oldest go first.
    pub entries_max: usize,
    /// Whether the file has all of this, so that it outlives the server.
    pub is_saved: bool,
    /// Why not. While the file cannot be read, its entries are missing here. Each request tries again.
    pub save_error: Option<String>,
}

/// A call that waits until the file was read, or could not be.
enum Pending {
    Keep(Keep, Reply<Keep>),
    Read(Reply<ReadJournal>),
}

/// Keeps the journal. See the module.
pub struct Journal {
    file: Arc<JournalFile>,
    /// Survives this incarnation.
    entries: Arc<Mutex<Entries>>,
    pending: Vec<Pending>,
    /// Whether the file is being read or written. A stop waits until it is not.
    is_busy: watch::Sender<bool>,
}

impl Journal {
    /// Makes a handle for an actor.
    pub fn handle() -> Handle<Self> {
        Handle::new("journal", CALLS_MAX)
    }

    /// Makes the child spec of the actor, whose file is at `path`. It should be started before the
    /// actor of jobs, so that it stops after it.
    pub fn child(handle: &Handle<Self>, path: PathBuf) -> ChildSpec {
        let file = Arc::new(JournalFile::new(path));
        let entries = Arc::new(Mutex::new(Entries::default()));
        ChildSpec::actor(handle, move |_| Self {
            file: Arc::clone(&file),
            entries: Arc::clone(&entries),
            pending: Vec::new(),
            is_busy: watch::Sender::new(false),
        })
    }

    /// Only one incarnation at a time uses the entries, so this waits for nobody.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `call` when the file was read. The first call causes that, and each later one while the file
    /// cannot be read.
    fn when_loaded(&mut self, call: Pending, context: &mut Context<Self>) {
        self.pending.push(call);
        if self.entries().is_loaded {
            self.answer_pending(context);
        } else {
            self.load(context);
        }
    }

    /// Reads the file, unless it is being read.
    fn load(&mut self, context: &mut Context<Self>) {
        if self.is_busy.send_replace(true) {
            return;
        }
        let file = Arc::clone(&self.file);
        let loaded = spawn_blocking(move || file.load());
        context.spawn(
            wrap_future::<_, Self>(loaded).map(|loaded, journal, context| {
                journal.is_busy.send_replace(false);
                journal.on_loaded(loaded.unwrap_or_else(|error| Err(error.into())));
                journal.answer_pending(context);
            }),
        );
    }

    fn on_loaded(&mut self, loaded: io::Result<Vec<JournalEntry>>) {
        let mut entries = self.entries();
        match loaded {
            Ok(from_file) => {
                entries.load(from_file);
                entries.set_save_error(None);
            }
            Err(error) => {
                if entries.save_error.is_none() {
                    tracing::warn!(
                        path = %self.file.path.display(),
                        %error,
                        "the journal of jobs cannot be read; new entries are not saved until it can"
                    );
                }
                entries.set_save_error(Some(format!("the file cannot be read: {error}")));
            }
        }
    }

    fn answer_pending(&mut self, context: &mut Context<Self>) {
        for call in std::mem::take(&mut self.pending) {
            match call {
                Pending::Read(reply) => {
                    let status = self.status();
                    reply.send(status);
                }
                Pending::Keep(keep, reply) => {
                    let watch = keep.watch.clone();
                    self.entries().add(keep.watch, keep.requested_by);
                    self.follow(watch, context);
                    reply.send(());
                }
            }
        }
        if self.entries().is_loaded {
            self.save(context);
        }
    }

    fn status(&self) -> JournalStatus {
        let entries = self.entries();
        JournalStatus {
            entries: entries.all(),
            entries_max: ENTRIES_MAX,
            is_saved: entries.is_saved(),
            save_error: entries.save_error.clone(),
        }
    }

    /// Takes over the end of a job.
    fn follow(&self, mut watch: JobWatch, context: &mut Context<Self>) {
        let ended = wrap_future::<_, Self>(async move { drop(watch.ended().await) });
        context.spawn(ended.map(|(), journal, context| {
            journal.entries().update();
            journal.save(context);
        }));
    }

    /// Writes the file, unless it is being written: then it is written again afterwards. One that could not be
    /// read is read first, so that nothing of it is lost.
    fn save(&mut self, context: &mut Context<Self>) {
        let (all, changes) = {
            let entries = self.entries();
            if !entries.has_changes() || *self.is_busy.borrow() {
                return;
            }
            if !entries.is_loaded {
                drop(entries);
                return self.load(context);
            }
            (entries.all(), entries.changes)
        };
        self.is_busy.send_replace(true);
        let file = Arc::clone(&self.file);
        let saved = spawn_blocking(move || file.save(all, changes));
        context.spawn(
            wrap_future::<_, Self>(saved).map(move |saved, journal, context| {
                let saved = saved.unwrap_or_else(|error| Err(error.into()));
                journal.on_saved(changes, saved, context);
            }),
        );
    }

    fn on_saved(&mut self, changes: u64, saved: io::Result<()>, context: &mut Context<Self>) {
        self.is_busy.send_replace(false);
        let was_failing = self.entries().save_error.is_some();
        match saved {
            Ok(()) => {
                let mut entries = self.entries();
                entries.saved = changes;
                entries.set_save_error(None);
            }
            Err(error) => {
                if !was_failing {
                    tracing::warn!(
                        path = %self.file.path.display(),
                        %error,
                        "the journal of jobs cannot be saved; its entries end with the server"
                    );
                }
                // The next change or call tries again.
                self.entries().set_save_error(Some(error.to_string()));
                if self.entries().changes == changes {
                    return;
                }
            }
        }
        self.save(context);
    }
}

impl Actor for Journal {
    type Context = Context<Self>;
}

impl Child for Journal {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        metrics::set_journal_unsaved(self.entries().save_error.is_some());
        // The last incarnation may have ended before it took over the end of a job, or wrote it.
        let running = self.entries().running();
        for watch in running {
            self.follow(watch, context);
        }
        self.save(context);
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.entries().update();
        self.save(context);
        let mut is_busy = self.is_busy.subscribe();
        let written = async move {
            // An error means that the actor has been dropped.
            is_busy.wait_for(|is_busy| !is_busy).await.ok();
        };
        Box::pin(wrap_future(written))
    }

    fn observe(&self) -> Value {
        let entries = self.entries();
        json!({
            "entries": entries.len(),
            "is_loaded": entries.is_loaded,
            "is_saved": entries.is_saved(),
            "save_error": entries.save_error,
        })
    }
}

impl Handler<Call<Keep>> for Journal {
    type Result = ();

    fn handle(&mut self, call: Call<Keep>, context: &mut Context<Self>) {
        if let Some((keep, reply)) = call.accept() {
            self.when_loaded(Pending::Keep(keep, reply), context);
        }
    }
}

impl Handler<Call<ReadJournal>> for Journal {
    type Result = ();

    fn handle(&mut self, call: Call<ReadJournal>, context: &mut Context<Self>) {
        if let Some((ReadJournal, reply)) = call.accept() {
            self.when_loaded(Pending::Read(reply), context);
        }
    }
}

impl Handler<Call<ReadSaveError>> for Journal {
    type Result = ();

    fn handle(&mut self, call: Call<ReadSaveError>, _context: &mut Context<Self>) {
        if let Some((ReadSaveError, reply)) = call.accept() {
            reply.send(self.entries().save_error.clone());
        }
    }
}
