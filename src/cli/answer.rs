//! What is answered at the URL of a server. Only what has the form of an answer of Headroom is used and printed:
//! another program may listen there, and answer with anything.

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Failure;
use super::client::ClientError;
use super::output;
use super::part::Part;

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
            Err(error) => Err(self.foreign(error.to_string())),
        }
    }

    /// The answer of one part of the server, which may be that there is none.
    pub(super) fn read_part<T: DeserializeOwned>(&self) -> Result<Document<Part<T>>, Failure> {
        let document = self.read::<Part<T>>()?;
        match document.content.is_known() {
            true => Ok(document),
            false => Err(self.foreign("it has another form".to_owned())),
        }
    }

    fn foreign(&self, reason: String) -> Failure {
        let url = self.url.clone();
        Failure::NoServer(ClientError::Foreign { url, reason })
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
