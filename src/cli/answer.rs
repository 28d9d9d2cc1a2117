//! What is answered at the URL of a server. Only what has the form of an answer of Headroom is used and printed:
//! another program may listen there, and answer with anything.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Failure;
use super::client::ClientError;
use super::output;

/// An answer of whatever listens at the URL.
pub(super) struct Answer {
    url: String,
    body: Bytes,
}

/// An answer in the form that the command knows, so it is one of Headroom.
pub(super) struct Document<T> {
    pub(super) content: T,
    body: Bytes,
}

impl Answer {
    /// What is answered at `url`.
    pub(super) fn new(url: String, body: Bytes) -> Self {
        Self { url, body }
    }

    /// The answer in the form `T`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<Document<T>, Failure> {
        match serde_json::from_slice(&self.body) {
            Ok(content) => Ok(Document {
                content,
                body: self.body.clone(),
            }),
            Err(error) => Err(ClientError::other_form(self.url.clone(), &error).into()),
        }
    }
}

impl<T> Document<T> {
    /// Writes the JSON to standard output, as the server sent it.
    pub(super) fn print(&self) -> Result<(), Failure> {
        self.write().map(drop)
    }

    /// The same. `false` if the reader of standard output has left.
    pub(super) fn write(&self) -> Result<bool, Failure> {
        output::write_body(&self.body)
    }
}
