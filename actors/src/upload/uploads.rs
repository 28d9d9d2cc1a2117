//! The actor that owns uploads.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::addition::Origin;
use super::admission::{ActiveUpload, Admission, Ticket};
use super::apart::apart;
use super::blocking::drop_apart;
use super::bucket::BucketError;
use super::caller::Caller;
use super::config::Config;
use super::contents::Content;
use super::error::UploadError;
use super::id::UploadId;
use super::link::{Link, LinkKey};
use super::metrics;
use super::partial::{
    Append, Begun, CreatePartial, FindPartial, Partial, Partials, Settle, Terminate,
};
use super::quarantine::{InfectedUpload, Quarantine};
use super::receive::Received;
use super::records::{Filter, Page, Records, Totals, Upload};
use super::removal::{SWEEP_FOLDERS, Swept};
use super::request_key::{KeyedRequest, RequestKey};
use super::scan::Scan;
use super::scanner::{self, Scanner, ScannerConfig};
use super::storage::Storage;
use super::store::Store;
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Buffers, Call, Child, ChildSpec, Exit, Handle, Message, Reply, Resource};
use crate::postgres::Database;

/// Calls in flight.
const CALLS_MAX: u32 = 4096;

/// Asks for the right to upload. Waits for a place and for memory.
pub struct Admit {
    /// Who uploads.
    pub caller: Caller,
    /// The size of the request, if it is known.
    pub announced: Option<u64>,
    /// The key of the request, if it has one: what a repeat stores is within the quotas already.
    pub key: Option<RequestKey>,
    /// A lease on the resource [`super::STORAGE`]: it keeps the upload folder open.
    pub lease: Box<dyn Send>,
}

impl Message for Admit {
    type Reply = Result<Ticket, UploadError>;
    const CANCELLABLE: bool = true;
}

/// Stores the files of an upload, all or none, and ends it. When the reply says so, they are durable.
pub struct Save {
    /// The upload.
    pub ticket: Ticket,
    /// Its files.
    pub files: Vec<Received>,
    /// The key of the request, if it has one.
    pub key: Option<RequestKey>,
}

/// What an upload has stored.
#[derive(Debug)]
pub struct Saved {
    /// The files, in their order.
    pub uploads: Vec<Upload>,
    /// Whether an earlier request with the same key has stored them.
    pub is_repeat: bool,
}

impl Message for Save {
    type Reply = Result<Saved, UploadError>;
}

/// Asks for one upload.
pub struct Find(pub UploadId);

impl Message for Find {
    type Reply = Result<Upload, UploadError>;
    const CANCELLABLE: bool = true;
}

/// Asks for one upload and its bytes.
pub struct Open {
    /// The id.
    pub id: UploadId,
    /// As in [`Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for Open {
    type Reply = Result<(Upload, Content), UploadError>;
    const CANCELLABLE: bool = true;
}

/// Asks for the newest records of infected files, at most so many.
pub struct ListInfected(pub u32);

impl Message for ListInfected {
    type Reply = Result<Vec<InfectedUpload>, UploadError>;
    const CANCELLABLE: bool = true;
}

/// Removes the record of an infected file, and the file if it is in quarantine.
pub struct RemoveInfected {
    /// The id of the record.
    pub id: UploadId,
    /// As in [`Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for RemoveInfected {
    type Reply = Result<(), UploadError>;
}

/// Asks for a link to an upload.
pub struct MakeLink {
    /// The id.
    pub id: UploadId,
    /// How long the link can be used.
    pub lifetime: Duration,
}

impl Message for MakeLink {
    type Reply = Result<Link, UploadError>;
    const CANCELLABLE: bool = true;
}

/// As [`Open`], of the file that a link leads to.
pub struct OpenLink {
    /// The [`Link::token`].
    pub token: String,
    /// As in [`Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for OpenLink {
    type Reply = Result<(Upload, Content), UploadError>;
    const CANCELLABLE: bool = true;
}

/// Asks for some uploads.
pub struct List(pub Filter);

impl Message for List {
    type Reply = Result<Page, UploadError>;
    const CANCELLABLE: bool = true;
}

/// Removes an upload.
pub struct Remove {
    /// The id.
    pub id: UploadId,
    /// As in [`Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for Remove {
    type Reply = Result<(), UploadError>;
}

/// Asks what is in progress.
#[derive(Debug)]
pub struct ReadUploads;

impl Message for ReadUploads {
    type Reply = UploadsStatus;
    const CANCELLABLE: bool = true;
}

/// What is in progress.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct UploadsStatus {
    /// The uploads in progress, the oldest first.
    pub active: Vec<ActiveUpload>,
    /// The most uploads in progress.
    pub active_max: u32,
    /// What is stored, as of the last sweep; zero before the first upload.
    pub stored: Totals,
}

/// Owns the upload folder and the rows of uploads. See the module.
pub struct Uploads {
    owned: Arc<Owned>,
    is_sweeping: bool,
    /// The folder of files at which the next sweep begins.
    next_folder: u8,
}

struct Owned {
    admission: Arc<Admission>,
    records: Records,
    partials: Arc<Partials>,
    quarantine: Quarantine,
    storage: Storage,
    /// Whether the stored uploads were counted, and the bucket found to be that of the database.
    counted: tokio::sync::Mutex<bool>,
    link_key: tokio::sync::OnceCell<LinkKey>,
}

/// Uploads before their start.
pub struct UploadsPlan {
    owned: Arc<Owned>,
    scanner: Option<(Handle<Scanner>, ScannerConfig)>,
}

impl UploadsPlan {
    /// Uploads with these settings. Their rows are in `database`, their buffers in `buffers`.
    pub fn new(
        config: Config,
        database: Database,
        buffers: Arc<dyn Buffers>,
        pressure: PressureReader,
    ) -> Self {
        metrics::start_at_zero();
        scanner::start_at_zero();
        let storage = Storage::new(
            config.dir.clone(),
            config.bucket.clone(),
            Arc::clone(&buffers),
            config.admission_wait,
        );
        let scanner = config.scan.as_ref().map(|scan| {
            let handle = Scanner::handle(&scan.scanner);
            (handle, scan.scanner.clone(), scan.is_required)
        });
        let quarantine = Quarantine {
            database: database.clone(),
            bytes_max: config.quarantine_bytes_max,
            ttl: config.infected_ttl,
            turn: Arc::default(),
        };
        let scan = scanner.as_ref().map(|(scanner, _, is_required)| Scan {
            scanner: scanner.clone(),
            is_required: *is_required,
            quarantine: quarantine.clone(),
        });
        let admission = Admission::new(Arc::new(config), buffers, pressure, scan);
        let admission = Arc::new(admission);
        let records = Records::new(database.clone());
        let partials = Partials::new(Arc::clone(&admission), records.clone(), database);
        Self {
            scanner: scanner.map(|(handle, config, _)| (handle, config)),
            owned: Arc::new(Owned {
                admission,
                records,
                partials: Arc::new(partials),
                quarantine,
                storage,
                counted: tokio::sync::Mutex::default(),
                link_key: tokio::sync::OnceCell::new(),
            }),
        }
    }

    /// The upload folder, and the scanner if there is one, for the lazy loader.
    pub fn resources(&self) -> Vec<Resource> {
        let scanner = self.scanner.as_ref();
        let scanner = scanner.map(|(handle, config)| scanner::resource(handle, config, None));
        let storage = self.owned.storage.resource(None);
        [storage].into_iter().chain(scanner).collect()
    }

    /// The child specs of the actors, in their order.
    pub fn children(&self, handle: &Handle<Uploads>) -> Vec<ChildSpec> {
        let owned = Arc::clone(&self.owned);
        let uploads = ChildSpec::actor(handle, move |_| Uploads {
            owned: Arc::clone(&owned),
            is_sweeping: false,
            next_folder: 0,
        });
        let scanner = self.scanner.as_ref();
        let scanner = scanner.map(|(handle, config)| Scanner::child(handle, config.clone()));
        scanner.into_iter().chain([uploads]).collect()
    }
}

impl Owned {
    fn store(&self) -> Result<Arc<Store>, UploadError> {
        // Callers hold a lease on it, so this is rare: it was unloaded by force.
        let closed = || std::io::Error::other("the upload folder is closed");
        self.storage.store().ok_or_else(|| closed().into())
    }

    /// Counts what is stored, once after the start. Uploads and sweeps make a new folder or bucket known to the database one
    /// at a time.
    async fn count(&self, store: &Store) -> Result<(), UploadError> {
        let mut counted = self.counted.lock().await;
        if !*counted {
            self.records.knows(store).await?;
            self.records.check_bucket(store).await?;
            self.set_totals(self.records.totals(None).await?);
            *counted = true;
        }
        Ok(())
    }

    /// Has a look whether the bucket still is that of the database. If not, uploads are refused from now on.
    async fn check_bucket(&self, store: &Store) -> Result<(), UploadError> {
        self.count(store).await?;
        let checked = self.records.check_bucket(store).await;
        if let Err(UploadError::Bucket(BucketError::Foreign)) = checked {
            *self.counted.lock().await = false;
        }
        checked
    }

    fn set_totals(&self, totals: Totals) {
        *self.admission.stored() = totals;
        metrics::set_totals(totals.files, totals.bytes);
    }

    async fn admit(&self, admit: Admit) -> Result<Ticket, UploadError> {
        let Admit {
            caller,
            announced,
            key,
            lease,
        } = admit;
        let store = self.store()?;
        self.count(&store).await?;
        if let Some(key) = key
            && self.records.has_request(caller, &key).await?
        {
            let admission = Arc::clone(&self.admission);
            return admission.readmit(store, caller, 0, None, lease).await;
        }
        let used = self.admission.callers.used(&self.records, caller).await?;
        let admission = Arc::clone(&self.admission);
        admission.admit(store, caller, announced, used, lease).await
    }

    async fn save(&self, save: Save) -> Result<Saved, UploadError> {
        let Save { ticket, files, key } = save;
        let Some(key) = key else {
            let uploads = self.store_files(&ticket, files, Origin::Form).await?;
            let uploads = uploads.ok_or(UploadError::Panicked)?;
            let is_repeat = false;
            return Ok(Saved { uploads, is_repeat });
        };
        let request = KeyedRequest::new(key, &files);
        let repeat = |uploads| Saved {
            uploads,
            is_repeat: true,
        };
        let (records, caller) = (&self.records, ticket.caller());
        if let Some(uploads) = records.stored_by(caller, &request).await? {
            drop_apart(files);
            return Ok(repeat(uploads));
        }
        let origin = Origin::Keyed(&request, self.admission.config.request_key_ttl);
        match self.store_files(&ticket, files, origin).await {
            Ok(Some(uploads)) => Ok(Saved {
                uploads,
                is_repeat: false,
            }),
            // Another request with this key came first.
            Ok(None) => {
                let uploads = records.stored_by(caller, &request).await?;
                uploads.map(repeat).ok_or(UploadError::KeyOfRemoved)
            }
            // It may also have used the quota up.
            Err(error @ UploadError::Quota { .. }) => {
                let uploads = records.stored_by(caller, &request).await?;
                uploads.map(repeat).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Stores files. Returns `None` if another request has their key.
    async fn store_files(
        &self,
        ticket: &Ticket,
        files: Vec<Received>,
        origin: Origin<'_>,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        let began = Instant::now();
        let (store, caller) = (Arc::clone(ticket.store()), ticket.caller());
        let ttl = self.admission.config.ttl;
        let new = Totals {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
        };
        let admitted = async {
            let callers = &self.admission.callers;
            let storing = callers.begin(&self.records, caller, new).await?;
            self.admission.count(new)?;
            Ok(storing)
        };
        let _storing = match admitted.await {
            Ok(storing) => storing,
            Err(error) => {
                drop_apart(files);
                return Err(error);
            }
        };
        ticket.set_counted();
        let added = self.records.add(&store, files, caller, ttl, origin).await;
        match &added {
            Ok(None) => self.admission.uncount(new),
            Ok(Some(uploads)) => self.admission.record_stored(uploads, began),
            // They may be stored, where the answer was lost. The next sweep counts.
            Err(_) => self.admission.uncount(new),
        }
        added
    }

    async fn open(&self, open: Open) -> Result<(Upload, Content), UploadError> {
        let store = self.store()?;
        let upload = self.records.find(&open.id).await?;
        let content = upload.content().ok_or(UploadError::Damaged)?;
        match store.open_content(content, upload.bytes).await {
            Ok(content) => Ok((upload, content)),
            Err(error) => {
                // It may have just been removed.
                self.records.find(&open.id).await?;
                Err(error)
            }
        }
    }

    async fn remove_infected(&self, remove: RemoveInfected) -> Result<(), UploadError> {
        let RemoveInfected { id, lease: _lease } = remove;
        self.quarantine.remove(self.store()?, id).await
    }

    async fn link_key(&self) -> Result<&LinkKey, UploadError> {
        let key = || self.records.link_key();
        self.link_key.get_or_try_init(key).await
    }

    async fn make_link(&self, make: MakeLink) -> Result<Link, UploadError> {
        let upload = self.records.find(&make.id).await?;
        let key = self.link_key().await?;
        Ok(key.link(&upload.id, SystemTime::now(), make.lifetime))
    }

    async fn open_link(&self, open: OpenLink) -> Result<(Upload, Content), UploadError> {
        let OpenLink { token, lease } = open;
        let id = self.link_key().await?.read(&token, SystemTime::now())?;
        self.open(Open { id, lease }).await
    }

    async fn remove(&self, remove: Remove) -> Result<(), UploadError> {
        let store = self.store()?;
        self.count(&store).await?;
        let upload = self.records.find(&remove.id).await?;
        self.records.remove(&store, &remove.id).await?;
        self.admission.uncount(Totals {
            files: 1,
            bytes: upload.bytes,
        });
        Ok(())
    }

    async fn create_partial(&self, create: CreatePartial) -> Result<Partial, UploadError> {
        let store = self.store()?;
        self.count(&store).await?;
        self.partials.create(store, create).await
    }

    async fn find_partial(&self, find: FindPartial) -> Result<Partial, UploadError> {
        let store = self.store()?;
        self.count(&store).await?;
        self.partials.find(store, &find.id, find.lease).await
    }

    async fn append(&self, append: Append) -> Result<Begun, UploadError> {
        let store = self.store()?;
        self.count(&store).await?;
        self.partials.append(store, append).await
    }

    async fn terminate(&self, terminate: Terminate) -> Result<(), UploadError> {
        let store = self.store()?;
        let Terminate { id, lease } = terminate;
        match self.partials.terminate(&store, &id).await? {
            Some(id) => self.remove(Remove { id, lease }).await,
            None => Ok(()),
        }
    }

    /// Removes what is over. What it has removed before it failed is in `swept`.
    async fn sweep(&self, first: u8, swept: &mut Swept) -> Result<(), UploadError> {
        // Nothing was uploaded since the start, and so nothing else is to be done.
        let Some(store) = self.storage.store() else {
            return Ok(());
        };
        let is_known = self.records.knows(&store).await?;
        if !is_known {
            tracing::warn!(
                "the database does not know the upload folder: files without a row stay; see uploads.dir and postgres.url"
            );
        }
        *swept = self.partials.sweep(&store, is_known).await?;
        swept.expired += self.quarantine.sweep(&store, is_known).await?;
        swept.expired += self.records.sweep_expired().await?;
        self.set_totals(self.records.totals(None).await?);
        // The rest needs the bucket, if there is one.
        self.check_bucket(&store).await?;
        swept.unused += self.records.sweep_unused(&store).await?;
        store.sweep_parts().await?;
        if is_known {
            swept.unused += self.records.sweep_folders(&store, first).await?;
        }
        Ok(())
    }
}

impl Uploads {
    /// Makes a handle for an actor.
    pub fn handle() -> Handle<Self> {
        Handle::new("uploads", CALLS_MAX)
    }

    /// Answers a call with the output of `work`, which neither holds up other calls nor ends them by a panic.
    fn answer<M, T, W>(context: &mut Context<Self>, reply: Reply<M>, work: W)
    where
        M: Message<Reply = Result<T, UploadError>>,
        T: 'static,
        W: Future<Output = Result<T, UploadError>> + 'static,
    {
        let done = wrap_future::<_, Self>(async move { reply.send(apart(work).await) });
        context.spawn(done);
    }

    fn sweep(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_sweeping, true) {
            return;
        }
        let (owned, first) = (Arc::clone(&self.owned), self.next_folder);
        self.next_folder = first.wrapping_add(SWEEP_FOLDERS);
        let swept = apart(async move {
            let mut swept = Swept::default();
            let done = owned.sweep(first, &mut swept).await;
            Ok((swept, done))
        });
        let swept = wrap_future::<_, Self>(swept);
        context.spawn(swept.map(|swept, uploads, _| {
            uploads.is_sweeping = false;
            let (swept, done) = swept.unwrap_or_else(|error| (Swept::default(), Err(error)));
            let Swept { expired, unused } = swept;
            if expired + unused > 0 {
                tracing::info!(expired, unused, "uploads were swept");
            }
            metrics::record_swept(expired, unused, done.is_ok());
            if let Err(error) = done {
                tracing::warn!(%error, "not everything was swept; the next try follows");
            }
        }));
    }
}

impl Actor for Uploads {
    type Context = Context<Self>;
}

impl Child for Uploads {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let interval = self.owned.admission.config.sweep_interval;
        context.run_interval(interval, |uploads, context| uploads.sweep(context));
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn observe(&self) -> Value {
        let stored = *self.owned.admission.stored();
        json!({
            "active": self.owned.admission.list().len(),
            "files": stored.files,
            "bytes": stored.bytes,
            "is_sweeping": self.is_sweeping,
        })
    }
}

/// Declares handlers that answer with what a method of [`Owned`] returns.
macro_rules! handlers {
    ($( $message:ident($call:ident, $owned:ident) => $work:expr; )*) => { $(
        impl Handler<Call<$message>> for Uploads {
            type Result = ();

            fn handle(&mut self, call: Call<$message>, context: &mut Context<Self>) {
                if let Some(($call, reply)) = call.accept() {
                    let $owned = Arc::clone(&self.owned);
                    Self::answer(context, reply, async move { $work });
                }
            }
        }
    )* };
}

handlers! {
    Admit(admit, owned) => owned.admit(admit).await;
    Save(save, owned) => owned.save(save).await;
    Find(find, owned) => owned.records.find(&find.0).await;
    Open(open, owned) => owned.open(open).await;
    ListInfected(list, owned) => owned.quarantine.list(list.0).await;
    RemoveInfected(remove, owned) => owned.remove_infected(remove).await;
    MakeLink(make, owned) => owned.make_link(make).await;
    OpenLink(open, owned) => owned.open_link(open).await;
    List(list, owned) => owned.records.list(list.0).await;
    Remove(remove, owned) => owned.remove(remove).await;
    CreatePartial(create, owned) => owned.create_partial(create).await;
    FindPartial(find, owned) => owned.find_partial(find).await;
    Append(append, owned) => owned.append(append).await;
    Settle(settle, _owned) => settle.0.settle().await;
    Terminate(terminate, owned) => owned.terminate(terminate).await;
}

impl Handler<Call<ReadUploads>> for Uploads {
    type Result = ();

    fn handle(&mut self, call: Call<ReadUploads>, _context: &mut Context<Self>) {
        if let Some((ReadUploads, reply)) = call.accept() {
            let admission = &self.owned.admission;
            reply.send(UploadsStatus {
                active: admission.list(),
                active_max: admission.config.active_max,
                stored: *admission.stored(),
            });
        }
    }
}
