//! Which database the upload folder and the bucket belong to: files without a row in another one are not superfluous.

use super::bucket::BucketError;
use super::error::UploadError;
use super::id::UploadId;
use super::records::{Records, WITHIN};
use super::store::Store;
use crate::postgres::Connector;

/// Tells the database the identity of a folder or a bucket.
const REGISTER: &str = "insert into headroom.instance (key, value)
    values ($1, to_jsonb($2::text)) on conflict (key) do nothing";
const REGISTERED: &str = "select value #>> '{}' from headroom.instance where key = $1";
const FOLDER: &str = "upload_folder";
const BUCKET: &str = "upload_bucket";
/// The identity that a new bucket gets.
const NEW_BUCKET: &str = "upload_bucket_new";
const KNOWN: &str = "select value #>> '{}' from headroom.instance
    where key in ('upload_bucket', 'upload_bucket_new')";

/// Whether a server could store files in a bucket with this identity, if it used the database. `None`: the database cannot be
/// asked, or has no tables yet.
pub async fn try_owner(database: &Connector, identity: &str) -> Option<bool> {
    let known = database.read_once(KNOWN).await.ok()?;
    Some(known.iter().any(|known| known == identity))
}

impl Records {
    /// Whether the database is that of the folder. A folder and a database that are both new belong to each other from then
    /// on. If complete files are in a bucket, any number of new folders belong to the database.
    pub(super) async fn knows(&self, store: &Store) -> Result<bool, UploadError> {
        let identity = store.identity.as_str();
        if store.was_empty {
            self.register(FOLDER, identity).await?;
        }
        if self.registered(FOLDER).await?.as_deref() == Some(identity) {
            return Ok(true);
        }
        let one_of_several = format!("{FOLDER} {identity}");
        if store.was_empty && store.bucket.is_some() {
            self.register(&one_of_several, identity).await?;
        }
        Ok(self.registered(&one_of_several).await?.is_some())
    }

    /// Fails if the database is not that of the bucket. A bucket and a database that are both new belong to each other from
    /// then on.
    pub(super) async fn check_bucket(&self, store: &Store) -> Result<(), UploadError> {
        let Some(bucket) = &store.bucket else {
            return Ok(());
        };
        let mut known = self.registered(BUCKET).await?;
        if known.is_none() {
            // First to the database: after a death in between, and for other servers with it, the identity is the same.
            self.register(NEW_BUCKET, UploadId::random().as_str())
                .await?;
            if let Some(new) = self.registered(NEW_BUCKET).await? {
                if bucket.identity().await?.is_none() && bucket.is_empty().await? {
                    bucket.set_identity(&new).await?;
                }
                if bucket.identity().await?.as_ref() == Some(&new) {
                    self.register(BUCKET, &new).await?;
                    known = Some(new);
                }
            }
        }
        // A bucket that has an identity keeps it, also while it is empty: it may be that of a server with another database.
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
