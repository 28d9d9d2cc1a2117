//! The journal: the jobs of one kind that operators asked for, with who asked, when, and what came of
//! it. It outlives the server.
//!
//! Why it exists: a job is forgotten soon after its end, and with the server. What operators did to a
//! server must be known later.
//!
//! Guarantees:
//! - **Every job that is kept gets its end**, however it ends. A job that the server did not survive has
//!   failed.
//! - **Bounds**: the number of entries, the bytes of each report, and the bytes of the file. The oldest
//!   entries go first.
//! - **The file is whole.** It is written beside the old one, synced, and renamed. A damaged file is set
//!   aside with a warning.
//! - **A folder that cannot be used costs only durability.** The entries stay in memory, and the reader
//!   is told why they are not saved. Each change and each call tries again.
//! - **Files are read and written on threads that may block**, and not before the first use.
//!
//! Not guaranteed: a change is in the file soon after it, not at once.
//!
//! Layout: [`Journal`] is the actor, `entries` keeps the entries for all incarnations, `file` reads and
//! writes the file.

mod actor;
mod entries;
mod file;
#[cfg(test)]
mod tests;

pub use actor::{Journal, JournalStatus, Keep, ReadJournal, ReadSaveError};
pub use entries::JournalEntry;
