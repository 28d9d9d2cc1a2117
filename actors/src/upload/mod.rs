//! Uploaded files: they arrive, are checked, stored, found again, and removed.
//!
//! Why it exists: files come from strangers, at any speed, and stop in the middle. The module takes them within bounded
//! memory, keeps only what is whole and is what it says, and never loses what it has confirmed.
//!
//! Guarantees:
//! - **Bounded memory**: an upload holds at most two pieces of 512 KiB, reserved in the memory budget, whatever the
//!   size of its files. While memory is short, pieces are small, and new uploads wait.
//! - **Durable**: when [`Save`] is answered, the bytes, their folder and their rows are on disks. All files of an upload
//!   are stored, or none.
//! - **Nothing half**: a file that did not arrive whole has no name, and the kernel frees its bytes, also when the process
//!   is killed.
//! - **Stored once**: files with the same bytes share them. Bytes are removed with the last upload that needs them, and
//!   never before.
//! - **Scanned before it is stored**, if a scanner is set: what is infected, or was not scanned although it must be, is never
//!   stored (`scan`, [`scanner`]).
//! - **Checked**: the content agrees with the name and the declared type (`content`). Names are data and never
//!   paths.
//! - **Repeatable**: a request with a key that is sent again stores its files once (`request_key`).
//! - **A failure stays alone**: a panic of the work on one upload fails that upload. Work of the actor runs in tasks of
//!   its own (`apart`).
//! - **Resumable**: an upload in parts goes on after a death of the client or of the server (`partial`).
//!
//! Layout: [`Uploads`] is the actor. `admission` decides who may upload; `receive` takes the bytes of one file, and
//! `pieces` bounds them; `store` is the folder, `bucket` the bucket that may hold the complete files
//! (`contents`), and `storage` makes them a resource of the lazy loader; `records` are the rows in PostgreSQL:
//! `addition` and `removal` change them together with the files, and `claims` says which servers may change an object.

mod addition;
mod admission;
mod apart;
mod blocking;
mod bucket;
mod caller;
mod caller_quotas;
mod claims;
mod config;
pub mod content;
mod contents;
mod error;
mod id;
mod link;
mod metrics;
mod owner;
mod partial;
mod patience;
mod pieces;
mod quarantine;
mod receive;
mod records;
mod removal;
mod request_key;
mod scan;
pub mod scanner;
mod storage;
mod store;
mod uploads;

pub use admission::{ActiveUpload, Ticket};
pub use bucket::{BucketConfig, BucketError, try_once as try_bucket};
pub use caller::Caller;
pub use config::{Config, ScanConfig};
pub use content::{Detail, Facts, Kind, KindFault, Limits};
pub use contents::{Content, PIECE_BYTES};
pub use error::UploadError;
pub use id::{NoUploadId, UploadId};
pub use link::Link;
pub use metrics::{METRICS, RequestFault, record_refused, record_refused_request};
pub use owner::try_owner;
pub use partial::{
    Append, Appending, Begun, Checksum, ChecksumAlgorithm, CreatePartial, FindPartial, Partial,
    PartialFault, PartialRole, Settle, Terminate,
};
pub use patience::Patience;
pub use quarantine::InfectedUpload;
pub use receive::{Incoming, Received};
pub use records::{Cursor, Filter, Page, Totals, Upload};
pub use request_key::{NoRequestKey, RequestKey};
pub use storage::STORAGE;
pub use store::hash_of_digits;
pub use uploads::{
    Admit, Find, List, ListInfected, MakeLink, Open, OpenLink, ReadUploads, Remove, RemoveInfected,
    Save, Saved, Uploads, UploadsPlan, UploadsStatus,
};
