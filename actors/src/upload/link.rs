//! Links by which whoever has one may download a file for some time.
//!
//! A link says which file it is for and when it ends, with a keyed BLAKE3 hash of both. The key is random and in the
//! database, so that links outlive the server. They need no rows, and end with their file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;

use super::error::UploadError;
use super::id::UploadId;
use super::records::{Records, WITHIN};
use super::store::{hash_of_digits, hex};
use crate::kernel::Timestamp;

/// Digits of the time in a link.
const TIME_DIGITS: usize = 16;
/// Digits of an id.
const ID_DIGITS: usize = 32;

const MAKE_KEY: &str = "insert into headroom.instance (key, value)
    values ('upload_link_key', to_jsonb($1::text)) on conflict (key) do nothing";
const KEY: &str = "select value #>> '{}' from headroom.instance where key = 'upload_link_key'";

/// A link to a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// What the client must send. It is a secret, as the file is.
    pub token: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What signs links.
#[derive(Clone)]
pub(super) struct LinkKey([u8; 32]);

impl LinkKey {
    /// A link to `id` that ends after `lifetime`, in whole seconds.
    pub(super) fn link(&self, id: &UploadId, now: SystemTime, lifetime: Duration) -> Link {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.saturating_add(lifetime).as_secs();
        let signed = format!("{seconds:016x}{id}");
        Link {
            token: format!("{signed}{}", hex(self.sign(&signed).as_bytes())),
            expires_at: Timestamp::from_unix(Duration::from_secs(seconds)),
        }
    }

    /// The upload that a token is for.
    ///
    /// # Errors
    /// It is no token of this key, or its time is over.
    pub(super) fn read(&self, token: &str, now: SystemTime) -> Result<UploadId, UploadError> {
        let read = || {
            let (signed, signature) = token.split_at_checked(TIME_DIGITS + ID_DIGITS)?;
            let signature = hash_of_digits(signature)?;
            // In constant time.
            (self.sign(signed) == blake3::Hash::from_bytes(signature)).then_some(())?;
            let (time, id) = signed.split_at_checked(TIME_DIGITS)?;
            let seconds = u64::from_str_radix(time, 16).ok()?;
            Some((seconds, id.parse().ok()?))
        };
        let (seconds, id) = read().ok_or(UploadError::NoLink)?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        match since.as_secs() < seconds {
            true => Ok(id),
            false => Err(UploadError::LinkOver),
        }
    }

    fn sign(&self, signed: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.0, signed.as_bytes())
    }
}

impl Records {
    /// The key of the links. The first call makes it.
    pub(super) async fn link_key(&self) -> Result<LinkKey, UploadError> {
        let new = hex(&rand::rng().random::<[u8; 32]>());
        self.database.query(MAKE_KEY, &[&new], WITHIN).await?;
        let row = self.database.query(KEY, &[], WITHIN).await?.one()?;
        let digits: String = row.get(0);
        let key = hash_of_digits(&digits).ok_or(UploadError::Damaged)?;
        Ok(LinkKey(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_link_is_for_one_file_and_for_its_time() {
        let (key, id, now) = (LinkKey([7; 32]), UploadId::random(), SystemTime::now());
        let link = key.link(&id, now, HOUR);
        let read = |token: &str, now| key.read(token, now);
        assert_eq!(read(&link.token, now).ok(), Some(id.clone()));
        let last = now + HOUR - Duration::from_secs(1);
        assert_eq!(read(&link.token, last).ok(), Some(id.clone()));
        let over = read(&link.token, now + HOUR);
        assert!(matches!(over, Err(UploadError::LinkOver)));
        // No digit can be another one.
        for at in 0..link.token.len() {
            let mut token = link.token.clone().into_bytes();
            token[at] = if token[at] == b'0' { b'1' } else { b'0' };
            let other = read(&String::from_utf8(token).unwrap(), now);
            assert!(matches!(other, Err(UploadError::NoLink)), "{at}");
        }
        let of_others = LinkKey([8; 32]).link(&id, now, HOUR);
        for token in [
            "",
            "0",
            &link.token[1..],
            &"\u{e4}".repeat(56),
            &of_others.token,
        ] {
            assert!(matches!(read(token, now), Err(UploadError::NoLink)));
        }
    }
}
