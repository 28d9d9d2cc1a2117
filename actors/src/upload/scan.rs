//! Has files scanned before they are stored.
//!
//! A file that arrives fast is scanned while it arrives: the scan reads what has been written, and so needs nothing of the
//! writer. clamd serves few clients at once, so a sender that pauses loses the scan. Such a file, and one for which there
//! was no place, is scanned when all of it is there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::blocking::{blocking, drop_apart};
use super::error::UploadError;
use super::pieces::Shared;
use super::quarantine::Quarantine;
use super::receive::Received;
use super::scanner::{ScanError, ScanStream, Scanner, Verdict, begin, follow};
use crate::kernel::Handle;

/// Bytes that are read and sent at once.
const PIECE_BYTES: u64 = 256 * 1024;
/// How long a file that has arrived waits for its turn.
const WAIT: Duration = Duration::from_secs(60);
/// How long one that still arrives waits for the connect.
const FOLLOW_WAIT: Duration = Duration::from_secs(5);
/// After a pause of so long, the scan of a file that still arrives ends. clamd waits longer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The scanner, and what its failures mean.
#[derive(Clone)]
pub(super) struct Scan {
    pub(super) scanner: Handle<Scanner>,
    /// Whether a file that cannot be scanned is refused.
    pub(super) is_required: bool,
    pub(super) quarantine: Quarantine,
}

/// The scan of a file that still arrives. If it is dropped, the scan ends.
pub(super) struct Following {
    arrived: watch::Sender<Arrived>,
    task: JoinHandle<Option<Result<Verdict, ScanError>>>,
}

/// The part of a file that can be read.
#[derive(Debug, Clone, Copy, Default)]
struct Arrived {
    bytes: u64,
    is_all: bool,
}

impl Scan {
    /// Scans a file. What is returned is clean, or could not be scanned and need not be.
    pub(super) async fn scan(
        &self,
        mut received: Received,
        shared: &Shared,
    ) -> Result<Received, UploadError> {
        match self.verdict(&mut received).await? {
            Ok(Verdict::Clean) => received.scanned = true,
            Ok(Verdict::Infected { signature }) => {
                tracing::warn!(
                    signature,
                    name = received.name.as_str(),
                    sha256 = super::store::hex(&received.sha256),
                    bytes = received.bytes,
                    "an upload is infected, and was not stored"
                );
                let (store, caller) = (&shared.store, shared.caller);
                let taken = self.quarantine.take(store, received, caller, &signature);
                if let Err(error) = taken.await {
                    tracing::warn!(%error, "an infected upload has no record, or is not in quarantine");
                }
                return Err(UploadError::Infected { signature });
            }
            Err(error) if self.is_required => {
                drop_apart(received);
                return Err(error.into());
            }
            Err(error) => tracing::warn!(%error, "an upload was not scanned"),
        }
        Ok(received)
    }

    /// The outer error is that of the file.
    async fn verdict(
        &self,
        received: &mut Received,
    ) -> Result<Result<Verdict, ScanError>, UploadError> {
        if let Some(following) = received.following.take()
            && let Some(verdict) = following.end(received.bytes).await
        {
            return Ok(verdict);
        }
        let mut stream = match begin(&self.scanner, WAIT).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        let file = Arc::new(received.temp.file.try_clone()?);
        match send(&mut stream, &file, 0..received.bytes).await? {
            Ok(()) => Ok(stream.finish().await),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl Following {
    /// Begins the scan of a file of which a part is there. It runs in the runtime of the present thread.
    pub(super) fn begin(scanner: &Handle<Scanner>, file: &File) -> io::Result<Self> {
        let file = Arc::new(file.try_clone()?);
        let (arrived, arrives) = watch::channel(Arrived::default());
        let task = tokio::spawn(follow_file(scanner.clone(), file, arrives));
        Ok(Self { arrived, task })
    }

    /// Says that so many bytes are there.
    pub(super) fn arrived(&self, bytes: u64) {
        let is_all = false;
        self.arrived.send_replace(Arrived { bytes, is_all });
    }

    /// Says that the file is there, and waits for the verdict. `None` if it must be scanned from the start.
    async fn end(mut self, bytes: u64) -> Option<Result<Verdict, ScanError>> {
        let is_all = true;
        self.arrived.send_replace(Arrived { bytes, is_all });
        (&mut self.task).await.ok().flatten()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Scans a file while it arrives. `None` if it must be scanned from the start.
async fn follow_file(
    scanner: Handle<Scanner>,
    file: Arc<File>,
    mut arrives: watch::Receiver<Arrived>,
) -> Option<Result<Verdict, ScanError>> {
    let mut stream = follow(&scanner, FOLLOW_WAIT).await.ok()?;
    let mut sent = 0;
    loop {
        let arrived = *arrives.borrow_and_update();
        if sent < arrived.bytes {
            let sending = send(&mut stream, &file, sent..arrived.bytes);
            sending.await.ok()?.ok()?;
            sent = arrived.bytes;
        } else if arrived.is_all {
            break;
        } else {
            timeout(PAUSE_MAX, arrives.changed()).await.ok()?.ok()?;
        }
    }
    match stream.finish().await {
        // Another scan would end the same.
        result @ (Ok(_) | Err(ScanError::SizeLimit)) => Some(result),
        Err(_) => None,
    }
}

/// Sends a part of a file. The outer error is that of the file.
async fn send(
    stream: &mut ScanStream,
    file: &Arc<File>,
    part: Range<u64>,
) -> Result<Result<(), ScanError>, UploadError> {
    let mut at = part.start;
    while at < part.end {
        let length = PIECE_BYTES.min(part.end - at);
        let file = Arc::clone(file);
        let piece = blocking(move || {
            let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut piece, at)?;
            Ok(Bytes::from(piece))
        });
        if let Err(error) = stream.write(piece.await?).await {
            return Ok(Err(error));
        }
        at += length;
    }
    Ok(Ok(()))
}
