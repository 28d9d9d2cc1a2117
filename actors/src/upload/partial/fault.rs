//! Why an upload in parts does not go on as a client asks.

use super::super::id::UploadId;

/// Why an upload in parts does not go on as a client asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartialFault {
    /// There is none with this id.
    #[error("there is no upload in parts with the id {0}")]
    NotFound(UploadId),
    /// It was there.
    #[error("the upload in parts is gone: {0}")]
    Gone(String),
    /// Another request works on it.
    #[error("another request works on this upload in parts")]
    Locked,
    /// The client goes on at the wrong place.
    #[error("the upload in parts goes on at byte {offset}")]
    Offset {
        /// The right place.
        offset: u64,
    },
    /// More than the whole file.
    #[error("the file may have at most {max} bytes")]
    TooLong {
        /// The length of the file, or the most that it may have.
        max: u64,
    },
    /// The length was said already, or the file has more bytes.
    #[error("the length of the file cannot be {0} any more")]
    Length(u64),
    /// The bytes of the part do not have the sum that the client has said.
    #[error("the bytes do not have this checksum; none of them is kept")]
    Checksum,
    /// It is made of parts, and takes no bytes.
    #[error("this upload is made of others, and takes no bytes itself")]
    Final,
    /// The file has no name.
    #[error("the metadata of the upload has no filename")]
    NoName,
    /// What a file is to be made of is no part, or not complete.
    #[error("the upload {0} is not a complete part")]
    NoPart(UploadId),
}
