//! Has a file scanned that has arrived, before it is stored.
//!
//! The file is scanned when all of it is there: clamd serves few clients at once, and a slow sender would keep one of its
//! places.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::blocking::{blocking, drop_apart};
use super::error::UploadError;
use super::pieces::Shared;
use super::quarantine::Quarantine;
use super::receive::Received;
use super::scanner::{ScanError, Scanner, Verdict, begin};
use crate::kernel::Handle;

/// Bytes that are read and sent at once.
const PIECE_BYTES: u64 = 256 * 1024;
/// How long a file waits for its turn.
const WAIT: Duration = Duration::from_secs(60);

/// The scanner, and what its failures mean.
#[derive(Clone)]
pub(super) struct Scan {
    pub(super) scanner: Handle<Scanner>,
    /// Whether a file that cannot be scanned is refused.
    pub(super) is_required: bool,
    pub(super) quarantine: Quarantine,
}

impl Scan {
    /// Scans a file. What is returned is clean, or could not be scanned and need not be.
    pub(super) async fn scan(
        &self,
        received: Received,
        shared: &Shared,
    ) -> Result<Received, UploadError> {
        let received = Arc::new(received);
        let verdict = self.verdict(&received).await?;
        let Some(mut received) = Arc::into_inner(received) else {
            return Err(UploadError::Panicked);
        };
        match verdict {
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
        received: &Arc<Received>,
    ) -> Result<Result<Verdict, ScanError>, UploadError> {
        let mut stream = match begin(&self.scanner, WAIT).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        let mut at = 0;
        while at < received.bytes {
            let length = PIECE_BYTES.min(received.bytes - at);
            let reading = Arc::clone(received);
            let piece = blocking(move || {
                let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
                reading.temp.file.read_exact_at(&mut piece, at)?;
                Ok(Bytes::from(piece))
            });
            if let Err(error) = stream.write(piece.await?).await {
                return Ok(Err(error));
            }
            at += length;
        }
        Ok(stream.finish().await)
    }
}
