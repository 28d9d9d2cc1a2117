//! Which database the upload folder and the bucket belong to: files without a row in another one are not superfluous.

use super::bucket::BucketError;
use super::error::UploadError;
use super::id::UploadId;
use super::records::{Records, WITHIN};
use super::store::Store;

/// Tells the database the identity of a folder or a bucket.
const REGISTER: &str = "insert into headroom.instance (key, value)
    values ($1, to_jsonb($2::text)) on conflict (key) do nothing";
const REGISTERED: &str = "select value #>> '{}' from headroom.instance where key = $1";
const FOLDER: &str = "upload_folder";
const BUCKET: &str = "upload_bucket";

impl Records {
    /// Whether the database is that of the folder. A folder and a database that are both new belong to each other from then
    /// on.
    pub(super) async fn knows(&self, store: &Store) -> Result<bool, UploadError> {
        let identity = store.identity.as_str();
        if store.was_empty {
            self.register(FOLDER, identity).await?;
        }
        Ok(self.registered(FOLDER).await?.as_deref() == Some(identity))
    }

    /// Fails if the database is not that of the bucket. A bucket and a database that are both new belong to each other from
    /// then on.
    pub(super) async fn check_bucket(&self, store: &Store) -> Result<(), UploadError> {
        let Some(bucket) = &store.bucket else {
            return Ok(());
        };
        let mut known = self.registered(BUCKET).await?;
        if known.is_none() && bucket.is_empty().await? {
            let identity = UploadId::random();
            // In this order: after a death in between, both are still new to each other.
            bucket.set_identity(identity.as_str()).await?;
            self.register(BUCKET, identity.as_str()).await?;
            known = self.registered(BUCKET).await?;
            // If somebody else has registered one at the same time, the database decides.
            if let Some(known) = &known {
                bucket.set_identity(known).await?;
            }
        }
        // Read again: a server with another database may have replaced it.
        match known.is_some() && bucket.identity().await? == known {
            true => Ok(()),
            false => Err(BucketError::Foreign.into()),
        }
    }

    async fn register(&self, key: &str, identity: &str) -> Result<(), UploadError> {
        self.database
            .query(REGISTER, &[&key, &identity], WITHIN)
            .await?;
        Ok(())
    }

    async fn registered(&self, key: &str) -> Result<Option<String>, UploadError> {
        let known = self.database.query(REGISTERED, &[&key], WITHIN).await?;
        Ok(known.at_most_one()?.map(|row| row.get(0)))
    }
}
