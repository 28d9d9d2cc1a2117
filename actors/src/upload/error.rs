//! Why an upload was refused or failed.

use std::io;

use super::bucket::BucketError;
use super::content::{ContentFault, Kind, KindFault, NameFault};
use super::id::UploadId;
use super::partial::PartialFault;
use super::scanner::ScanError;
use crate::kernel::BudgetError;
use crate::postgres;

/// Why an upload was refused or failed. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Too many uploads are in progress.
    #[error("{active} uploads are in progress, and none ended in time")]
    Full {
        /// The most uploads at the same time.
        active: u32,
    },
    /// The caller has too many uploads in progress.
    #[error("this client has {active} uploads in progress, which is the most")]
    CallerFull {
        /// The most uploads of one caller at the same time.
        active: u32,
    },
    /// There is no memory for the buffers.
    #[error(transparent)]
    Memory(#[from] BudgetError),
    /// The file is larger than a file of its kind may be.
    #[error("a file of the kind {kind} may have at most {max} bytes")]
    TooLarge {
        /// The kind of the file.
        kind: Kind,
        /// The most bytes.
        max: u64,
    },
    /// The name cannot be used.
    #[error(transparent)]
    Name(#[from] NameFault),
    /// The kind of the file is unknown, or the declared type contradicts the name.
    #[error(transparent)]
    Kind(#[from] KindFault),
    /// The kind is not accepted.
    #[error("files of the kind {0} are not accepted here")]
    KindRefused(Kind),
    /// The content is not what the name says, or is damaged.
    #[error(transparent)]
    Content(#[from] ContentFault),
    /// The scanner has found a virus.
    #[error("the virus scanner has found {signature}")]
    Infected {
        /// What it calls the virus.
        signature: String,
    },
    /// The file must be scanned, and was not.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A quota is used up.
    #[error("the quota of {quota} is used up: {used} of {max}")]
    Quota {
        /// What the quota counts, and of whom.
        quota: &'static str,
        /// What is used, with this upload.
        used: u64,
        /// The most.
        max: u64,
    },
    /// The disk is nearly full.
    #[error("the disk is nearly full: {free} bytes are free, and {floor} stay free")]
    DiskFull {
        /// Free bytes.
        free: u64,
        /// The bytes that uploads leave free.
        floor: u64,
    },
    /// There is no such upload.
    #[error("there is no upload {0}")]
    NotFound(UploadId),
    /// The key of the request was that of one with other files.
    #[error("a request with this key came before, and had other files")]
    KeyOfOthers,
    /// The key of the request was that of one whose files were removed.
    #[error("a request with this key came before, and files that it has stored were removed since")]
    KeyOfRemoved,
    /// It is no link to a file here.
    #[error("this is no link to a file")]
    NoLink,
    /// The time of the link is over.
    #[error("the time of this link is over")]
    LinkOver,
    /// An upload in parts does not go on like this.
    #[error(transparent)]
    Partial(#[from] PartialFault),
    /// The folder cannot be used.
    #[error("the upload folder: {0}")]
    Storage(#[from] io::Error),
    /// The disk may not have the bytes. To sync them again proves nothing: after a failed sync the kernel may take pages for
    /// written that are not.
    #[error("the bytes of the file may not be on the disk: {0}")]
    Unsynced(#[source] io::Error),
    /// The bucket cannot be used.
    #[error("the bucket of uploads: {0}")]
    Bucket(#[from] BucketError),
    /// The database cannot be used.
    #[error("the database: {0}")]
    Database(#[from] postgres::Error),
    /// The bytes of a stored file are not there.
    #[error("the file of this upload is missing or has another size")]
    Damaged,
    /// A bug: the work on this upload panicked.
    #[error("the work on this upload panicked")]
    Panicked,
}

impl UploadError {
    /// Whether the file is refused for what it is: the same bytes would be refused again.
    pub(super) fn is_of_the_file(&self) -> bool {
        match self {
            Self::Content(fault) => !fault.is_servers(),
            Self::TooLarge { .. } | Self::Name(_) | Self::Kind(_) | Self::KindRefused(_) => true,
            Self::Infected { .. } | Self::Scan(ScanError::SizeLimit) => true,
            _ => false,
        }
    }

    /// Whether the disk, or what is allowed of it, is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Storage(error) | Self::Unsynced(error) => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}
