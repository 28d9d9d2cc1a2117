//! Keys of requests: a client that got no answer sends the same files with the same key again, and they are stored once.
//!
//! The header is that of the Internet draft "The Idempotency-Key HTTP Header Field". A key belongs to its caller. The
//! transaction that stores the files remembers it, so a repeat at the same time waits for the first and gets its answer.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use super::caller::Caller;
use super::error::UploadError;
use super::id::UploadId;
use super::receive::Received;
use super::records::{COLUMNS, Records, SWEEP_ROWS, UPLOADS, Upload, WITHIN, from_row};
use crate::postgres::Transaction;

/// The most bytes of a key.
const BYTES_MAX: usize = 255;

/// Returns a row if no other request has the key.
const REMEMBER: &str = "insert into headroom.upload_request as known (caller, key, fingerprint, uploads, expires_at)
    values ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))
    on conflict (caller, key) do update
        set fingerprint = excluded.fingerprint, uploads = excluded.uploads, expires_at = excluded.expires_at
        where known.expires_at <= clock_timestamp()
    returning 1";
const FIND: &str = "select fingerprint, uploads from headroom.upload_request
    where caller = $1 and key = $2 and expires_at > clock_timestamp()";
/// A request may have taken a key anew since it was found: then its time is not over.
const FORGET: &str = "delete from headroom.upload_request where (caller, key) in
    (select caller, key from headroom.upload_request where expires_at <= clock_timestamp() limit $1)
    and expires_at <= clock_timestamp()";

/// The key of a request, which its client has chosen: 1 to 255 visible ASCII characters, without `"` and `\`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey(String);

/// A text is no key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key must have 1 to 255 visible ASCII characters, without quotes and backslashes in it")]
pub struct NoRequestKey;

impl FromStr for RequestKey {
    type Err = NoRequestKey;

    /// Reads a key with or without the quotes of the draft.
    fn from_str(text: &str) -> Result<Self, NoRequestKey> {
        let quoted = text.strip_prefix('"');
        let key = match quoted {
            Some(rest) => rest.strip_suffix('"').ok_or(NoRequestKey)?,
            None => text,
        };
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        let is_key = (1..=BYTES_MAX).contains(&key.len()) && key.bytes().all(is_plain);
        is_key.then(|| Self(key.to_owned())).ok_or(NoRequestKey)
    }
}

/// A request with a key, and what it stores.
#[derive(Debug, Clone)]
pub(super) struct KeyedRequest {
    pub(super) key: RequestKey,
    /// Equal for requests with the same files under the same names.
    fingerprint: [u8; 32],
}

impl KeyedRequest {
    pub(super) fn new(key: RequestKey, files: &[Received]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for file in files {
            let name = file.name.as_str();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(file.kind.slug().as_bytes());
            hasher.update(&[0]);
            hasher.update(&file.blake3.0);
        }
        Self {
            key,
            fingerprint: *hasher.finalize().as_bytes(),
        }
    }

    /// Has the transaction remember the request. Returns whether no other has the key.
    pub(super) async fn remember(
        &self,
        transaction: &Transaction,
        uploads: &[Upload],
        ttl: Duration,
    ) -> Result<bool, UploadError> {
        let ids: Vec<&str> = uploads.iter().map(|upload| upload.id.as_str()).collect();
        let caller = uploads.first().map(|upload| upload.uploaded_by.as_str());
        let caller = caller.unwrap_or_default();
        let (fingerprint, ttl) = (&self.fingerprint[..], ttl.as_secs_f64());
        let row = transaction
            .query(REMEMBER, &[&caller, &self.key.0, &fingerprint, &ids, &ttl])
            .await?;
        Ok(row.at_most_one()?.is_some())
    }
}

impl Records {
    /// Whether a request with this key has stored files.
    pub(super) async fn has_request(
        &self,
        caller: Caller,
        key: &RequestKey,
    ) -> Result<bool, UploadError> {
        let caller = caller.to_string();
        let rows = self
            .database
            .query(FIND, &[&caller, &key.0], WITHIN)
            .await?;
        Ok(rows.at_most_one()?.is_some())
    }

    /// What the first request with this key has stored.
    ///
    /// # Errors
    /// It had other files, or they were removed since.
    pub(super) async fn stored_by(
        &self,
        caller: Caller,
        request: &KeyedRequest,
    ) -> Result<Option<Vec<Upload>>, UploadError> {
        let caller = caller.to_string();
        let found = self
            .database
            .query(FIND, &[&caller, &request.key.0], WITHIN)
            .await?;
        let Some(row) = found.at_most_one()? else {
            return Ok(None);
        };
        let (fingerprint, ids): (Vec<u8>, Vec<String>) = (row.get(0), row.get(1));
        if fingerprint != request.fingerprint {
            return Err(UploadError::KeyOfOthers);
        }
        let sql = format!("select {COLUMNS} from {UPLOADS} where id = any($1)");
        let rows = self.database.query(&sql, &[&ids], WITHIN).await?;
        let mut uploads: HashMap<UploadId, Upload> = rows
            .rows
            .iter()
            .map(|row| {
                let upload = from_row(row);
                (upload.id.clone(), upload)
            })
            .collect();
        let ids = ids.into_iter().map(UploadId::from_database);
        let uploads: Option<Vec<_>> = ids.map(|id| uploads.remove(&id)).collect();
        uploads.map(Some).ok_or(UploadError::KeyOfRemoved)
    }

    /// Forgets the keys whose time is over.
    pub(super) async fn forget_requests(&self) -> Result<(), UploadError> {
        loop {
            let gone = self.database.query(FORGET, &[&SWEEP_ROWS], WITHIN).await?;
            if gone.rows_affected < SWEEP_ROWS as u64 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_or_without_quotes() {
        let key = |text: &str| text.parse::<RequestKey>().map(|key| key.0);
        assert_eq!(key("\"8e03978e-40d5\""), Ok("8e03978e-40d5".to_owned()));
        assert_eq!(key("8e03978e-40d5"), Ok("8e03978e-40d5".to_owned()));
        assert!(key(&"a".repeat(BYTES_MAX)).is_ok());
        let long = "a".repeat(BYTES_MAX + 1);
        for wrong in ["", "\"\"", "\"a", "a b", "a\"", "a\\b", "\u{e4}", &long] {
            assert_eq!(key(wrong), Err(NoRequestKey), "{wrong:?}");
        }
    }
}
