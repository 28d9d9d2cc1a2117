//! Why a bucket cannot be used. No text here has a key in it: what a store answers may repeat it.

use std::error::Error;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use crate::kernel::chain;

/// Why the bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The store does not know the key.
    #[error("the store does not know the key: uploads.s3.access_key_id")]
    Key,
    /// The secret is not that of the key. Some stores also say this of a key that they do not know.
    #[error(
        "the store refuses the signature: uploads.s3.secret_access_key or uploads.s3.access_key_id"
    )]
    Secret,
    /// The key may not do this.
    #[error(
        "the key may not use the bucket ({0}): uploads.s3.access_key_id and the rights of the key"
    )]
    Denied(String),
    /// There is no such bucket.
    #[error("there is no such bucket: uploads.s3.bucket and uploads.s3.endpoint")]
    Missing,
    /// The bucket is in another region.
    #[error(
        "the store or the bucket is in another region: uploads.s3.region and uploads.s3.endpoint"
    )]
    Region,
    /// The files in it belong to another database.
    #[error(
        "the bucket belongs to another database: uploads.s3.bucket, uploads.s3.prefix and postgres.url"
    )]
    Foreign,
    /// The store cannot be reached, or answers with an error.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// The store does not answer. It may still do what it was asked for.
    #[error("the store cannot be used: {0}")]
    Unanswered(String),
    /// Others have the file, or too many are being removed.
    #[error("the file is left to the next sweep: others wait for the store too")]
    Busy,
    /// Another server removes the file now.
    #[error("another server is removing a file with the same bytes")]
    Removing,
    /// The time of the claim was over.
    #[error("a file was sent so slowly that it may have been removed meanwhile")]
    Lost,
}

impl BucketError {
    pub(super) fn late(limit: Duration) -> Self {
        Self::Unanswered(format!("no answer within {} s", limit.as_secs_f64()))
    }
}

/// What `object_store` says of a redirect to another region.
const REDIRECT: &str = "incorrectly configured region";
/// What stores answer to requests that are signed for another region.
const OTHER_REGION: [&str; 3] = [
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
];

/// What was found; `None` if there is no such object.
pub(super) fn found<T>(answer: object_store::Result<T>) -> Result<Option<T>, BucketError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { source, .. })
            if code(&source.to_string()) != Some("NoSuchBucket") =>
        {
            Ok(None)
        }
        Err(error) => Err(fault(error)),
    }
}

pub(super) fn fault(error: object_store::Error) -> BucketError {
    use object_store::Error as E;
    let text = chain(&error);
    let code = code(&text).map(str::to_owned);
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => match code.as_deref() {
            Some("InvalidAccessKeyId") => BucketError::Key,
            Some("SignatureDoesNotMatch") => BucketError::Secret,
            code => BucketError::Denied(code.unwrap_or("no reason given").to_owned()),
        },
        E::NotFound { .. } if code.as_deref() == Some("NoSuchBucket") => BucketError::Missing,
        // Its deadline (`within`).
        E::Generic { source, .. } if source.is::<BucketError>() => match source.downcast() {
            Ok(error) => *error,
            Err(source) => BucketError::Unavailable(source.to_string()),
        },
        _ if text.contains(REDIRECT) => BucketError::Region,
        _ => BucketError::Unavailable(match code {
            Some(code) if OTHER_REGION.contains(&code.as_str()) => return BucketError::Region,
            Some(code) => format!("it answers {code}"),
            // An answer without a code may repeat the request, with its signature.
            None => match connection_fault(&error) {
                Some(error) => return error,
                None => "it answers with an error".to_owned(),
            },
        }),
    }
}

/// The code in an error that the store has answered with.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = !code.is_empty() && code.len() <= 64 && code.chars().all(char::is_alphanumeric);
    is_code.then_some(code)
}

/// The connection's fault, if there was no answer.
fn connection_fault(error: &object_store::Error) -> Option<BucketError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            let own = http.source().and_then(|source| source.downcast_ref());
            if let Some(BucketError::Unanswered(text)) = own {
                return Some(BucketError::Unanswered(text.clone()));
            }
            return Some(match http.kind() {
                HttpErrorKind::Connect => BucketError::Unavailable(chain(http)),
                _ => BucketError::Unanswered(chain(http)),
            });
        }
        source = error.source();
    }
    None
}
