//! Uploads in parts: a client sends a file in several requests, and goes on where it was after it or the server died.
//!
//! What has arrived is a file `partial/<id>`, whose size says where to go on; its row in the database has the rest.
//! A part is on the disk before it is confirmed. With the last one the file is checked and stored like that of a
//! form (a file that comes in one part is checked while it arrives), and the row keeps the id of the upload that it has become,
//! so that a client whose answer was lost finds it.
//! If the server dies between the two, whoever asks next has it stored.
//!
//! - `work` has the operations, `append` takes the bytes of one part, `complete` has the file stored, `sweep` removes what is over.
//! - `rows` are the rows, `files` the files, and `lock` has one at a time work on an upload.
//! - `checksum` has the sums of parts. While a part that has one arrives, the row says up to where the bytes count.

mod append;
mod checksum;
mod complete;
mod fault;
mod files;
mod lock;
mod rows;
mod sweep;
mod work;

use super::caller::Caller;
use super::error::UploadError;
use super::id::UploadId;
use crate::kernel::{Message, Timestamp};

pub use append::Appending;
pub use checksum::{Checksum, ChecksumAlgorithm};
pub use fault::PartialFault;
pub(super) use work::Partials;

/// What an upload in parts is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartialRole {
    /// It becomes a file.
    Whole,
    /// It becomes a part of a file.
    Part,
    /// It is made of these, which are complete.
    Final(Vec<UploadId>),
}

/// An upload in parts.
#[derive(Debug, Clone)]
pub struct Partial {
    /// Its id.
    pub id: UploadId,
    /// The bytes that have arrived.
    pub offset: u64,
    /// The bytes of the whole file. `None` while the client has not said them.
    pub length: Option<u64>,
    /// What the client has said of the file, as it said it.
    pub metadata: String,
    /// What it is for.
    pub role: PartialRole,
    /// When it is removed.
    pub expires_at: Timestamp,
    /// The upload that it has become.
    pub upload: Option<UploadId>,
}

/// Begins an upload in parts. A file that is made of parts is complete when this is answered.
pub struct CreatePartial {
    /// Who uploads.
    pub caller: Caller,
    /// The bytes of the file, if they are known. Those of a file that is made of parts follow from them.
    pub length: Option<u64>,
    /// Its name. Only a part may have none.
    pub name: Option<String>,
    /// Its declared media type.
    pub media_type: Option<String>,
    /// All that the client says of it.
    pub metadata: String,
    /// What it is for.
    pub role: PartialRole,
    /// As in [`super::Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for CreatePartial {
    type Reply = Result<Partial, UploadError>;
}

/// Asks for an upload in parts. If all of it has arrived and it was not stored, it is stored now.
pub struct FindPartial {
    /// The id.
    pub id: UploadId,
    /// As in [`super::Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for FindPartial {
    type Reply = Result<Partial, UploadError>;
}

/// Begins a part of an upload.
pub struct Append {
    /// The id.
    pub id: UploadId,
    /// Where the part begins: after all that have arrived.
    pub offset: u64,
    /// The bytes of the part, if they are known.
    pub announced: Option<u64>,
    /// The length of the file, if the client says it now.
    pub length: Option<u64>,
    /// The sum that the bytes of the part must have.
    pub checksum: Option<Checksum>,
    /// As in [`super::Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for Append {
    type Reply = Result<Begun, UploadError>;
    const CANCELLABLE: bool = true;
}

/// What a client that sends a part finds.
pub enum Begun {
    /// The bytes may come.
    Part(Appending),
    /// All have come before.
    Complete(Partial),
}

/// Ends a part that has arrived whole. When this is answered, the part is on the disk; and if it was the last one, the
/// file is stored.
pub struct Settle(pub Appending);

impl Message for Settle {
    type Reply = Result<Partial, UploadError>;
}

/// Ends an upload in parts, and removes all of it; also what it has become.
pub struct Terminate {
    /// The id.
    pub id: UploadId,
    /// As in [`super::Admit`].
    pub lease: Box<dyn Send>,
}

impl Message for Terminate {
    type Reply = Result<(), UploadError>;
}
