//! Entries compared with their local headers and with each other.

use std::hash::{BuildHasher, RandomState};

use super::{
    super::{fault::ContentFault, walk::u16_le, window::Window},
    entry::Entry,
};

/// Entries that are compared: a bound of memory.
const WATCHED: usize = 1024;

/// Bytes of a local header without its name and more.
const LOCAL: usize = 30;

/// The entries that are compared with each other.
#[derive(Default)]
pub(super) struct Watch {
    hasher: RandomState,
    /// Hashes of names, with the number of the entry.
    names: Vec<(u64, u32)>,
    /// The places of entries with their headers.
    places: Vec<(u64, u64, u32)>,
}

impl Watch {
    pub(super) fn is_full(&self) -> bool {
        self.names.len() == WATCHED
    }

    /// Compares an entry with its local header and keeps it.
    pub(super) fn add(
        &mut self,
        locals: &mut Window<'_>,
        entry: &Entry,
        name: &[u8],
        directory_at: u64,
    ) -> Result<Result<(), &'static str>, ContentFault> {
        let local = match locals.get(entry.local_at, LOCAL + name.len())? {
            Some(local) if local.starts_with(b"PK\x03\x04") => local,
            _ => return Ok(Err("is not where the directory says")),
        };
        let same_name = usize::from(u16_le(local, 26)) == name.len() && local[LOCAL..] == *name;
        if !same_name || u16_le(local, 8) != entry.method {
            return Ok(Err("differs from what the directory says"));
        }
        let header = LOCAL + name.len() + usize::from(u16_le(local, 28));
        let end = (entry.local_at + header as u64).checked_add(entry.packed);
        let Some(end) = end.filter(|end| *end <= directory_at) else {
            return Ok(Err("does not end before the directory"));
        };
        let number = self.names.len() as u32 + 1;
        self.names.push((self.hasher.hash_one(name), number));
        self.places.push((entry.local_at, end, number));
        Ok(Ok(()))
    }

    pub(super) fn compare(mut self) -> Result<(), (u64, &'static str)> {
        self.names.sort_unstable();
        for pair in self.names.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err((pair[1].1.into(), "has the name of an entry before it"));
            }
        }
        self.places.sort_unstable();
        let is_full = self.is_full();
        if let Some((start, _, number)) = self.places.first()
            && *start > 0
            && !is_full
        {
            return Err((
                (*number).into(),
                "is the first one, but does not start the file",
            ));
        }
        for pair in self.places.windows(2) {
            if pair[0].1 > pair[1].0 {
                return Err((pair[1].2.into(), "shares bytes with another entry"));
            }
        }
        Ok(())
    }
}
