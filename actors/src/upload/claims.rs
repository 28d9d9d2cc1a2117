//! Claims on the contents that a request sends to the bucket.
//!
//! Servers that share a database and a bucket know nothing of each other's transfers but what the rows say. A claim makes
//! the row of a content before its object is sent, so no object is without a row, and keeps both from being removed
//! (`removal`) until it is over. Every claim has a name: a transfer that took too long finds that its name is gone, also if another one
//! has claimed the content since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bucket::BucketError;
use super::error::UploadError;
use super::id::UploadId;
use super::receive::Received;
use super::records::{WITHIN, signed};
use crate::postgres::{Database, Params, Transaction};

/// Time between two looks at a row whose content is being removed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// All statements here lock rows in the order of their hashes, as the transactions that count uploads do.
const CLAIM: &str = "insert into headroom.upload_content as content
    (blake3, sha256, bytes, uploads, sending, sending_until)
    select blake3, sha256, bytes, 0, array[$4::text], clock_timestamp() + make_interval(secs => $5)
    from unnest($1::bytea[], $2::bytea[], $3::int8[]) file (blake3, sha256, bytes) order by blake3
    on conflict (blake3) do update set
        sending = case when content.sending_until > clock_timestamp()
            then array_append(array_remove(content.sending, $4::text), $4::text) else array[$4::text] end,
        sending_until = greatest(content.sending_until, excluded.sending_until),
        removing_until = null
    where content.uploads > 0 or content.removing_until is null
        or content.removing_until <= clock_timestamp()
    returning 1";
const RENEW: &str = "with held as (
        select blake3 from headroom.upload_content
        where blake3 = any($1) and $2 = any(sending) and sending_until > clock_timestamp()
        order by blake3 for update)
    update headroom.upload_content content
    set sending_until = greatest(sending_until, clock_timestamp() + make_interval(secs => $3))
    from held where content.blake3 = held.blake3 returning 1";
const END: &str = "with held as (
        select blake3 from headroom.upload_content
        where blake3 = any($1) and $2 = any(sending) and sending_until > clock_timestamp()
        order by blake3 for update)
    update headroom.upload_content content set sending = array_remove(sending, $2)
    from held where content.blake3 = held.blake3 returning 1";

/// A claim on some contents. Clones share it.
#[derive(Clone)]
pub(super) struct Claim(Arc<Claimed>);

struct Claimed {
    database: Database,
    name: UploadId,
    hashes: Vec<Vec<u8>>,
}

impl Claim {
    /// Claims the contents of files for so long. Waits up to `patience` for servers that remove one of them.
    pub(super) async fn new(
        database: &Database,
        files: &[Arc<Received>],
        lasts: Duration,
        patience: Duration,
    ) -> Result<Self, UploadError> {
        let files: BTreeMap<_, _> = files.iter().map(|file| (file.blake3, file)).collect();
        let hashes: Vec<Vec<u8>> = files.keys().map(|hash| hash.0.to_vec()).collect();
        let sha256: Vec<Vec<u8>> = files.values().map(|file| file.sha256.to_vec()).collect();
        let bytes: Vec<i64> = files.values().map(|file| signed(file.bytes)).collect();
        let claim = Self(Arc::new(Claimed {
            database: database.clone(),
            name: UploadId::random(),
            hashes,
        }));
        let Claimed { name, hashes, .. } = &*claim.0;
        let (name, lasts) = (name.as_str(), lasts.as_secs_f64());
        let deadline = Instant::now() + patience;
        loop {
            let params: Params<'_> = &[hashes, &sha256, &bytes, &name, &lasts];
            let claimed = database.query(CLAIM, params, WITHIN).await?;
            if claimed.rows.len() == hashes.len() {
                return Ok(claim);
            }
            if Instant::now() + LOOK_AGAIN >= deadline {
                claim.release().await;
                return Err(BucketError::Removing.into());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Has the claim last for so long from now on.
    ///
    /// # Errors
    /// It was over: what it has sent may have been removed.
    pub(super) async fn renew(&self, lasts: Duration) -> Result<(), UploadError> {
        let Claimed { name, hashes, .. } = &*self.0;
        let lasts = lasts.as_secs_f64();
        let database = &self.0.database;
        let held = database
            .query(RENEW, &[hashes, &name.as_str(), &lasts], WITHIN)
            .await?;
        self.check(held.rows.len())
    }

    /// Ends the claim in the transaction that counts the uploads: it has the rows locked from then on.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub(super) async fn end(&self, transaction: &Transaction) -> Result<(), UploadError> {
        let Claimed { name, hashes, .. } = &*self.0;
        let held = transaction.query(END, &[hashes, &name.as_str()]).await?;
        self.check(held.rows.len())
    }

    /// Gives up the claim. Nothing may be on its way to the bucket any more. If this fails, the claim ends by its time.
    pub(super) async fn release(&self) {
        let Claimed { name, hashes, .. } = &*self.0;
        let database = &self.0.database;
        let released = database.query(END, &[hashes, &name.as_str()], WITHIN).await;
        if let Err(error) = released {
            tracing::debug!(%error, "a claim on contents ends by its time");
        }
    }

    fn check(&self, held: usize) -> Result<(), UploadError> {
        match held == self.0.hashes.len() {
            true => Ok(()),
            false => Err(BucketError::Lost.into()),
        }
    }
}
