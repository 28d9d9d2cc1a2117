//! Removes uploads in parts whose time is over, and what a crash has left of others.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::blocking::blocking;
use super::super::error::UploadError;
use super::super::id::UploadId;
use super::super::records::SWEEP_ROWS;
use super::super::removal::Swept;
use super::super::store::{PARTIAL, Store};
use super::work::Partials;

impl Partials {
    /// Removes what is over. Whoever works on an upload has it locked, and the sweep leaves it alone. Files without a row and
    /// rows without a file are over if the database knows the folder (`is_known`).
    pub(in super::super) async fn sweep(
        &self,
        store: &Arc<Store>,
        is_known: bool,
    ) -> Result<Swept, UploadError> {
        self.rows.remove_ended().await?;
        let mut swept = Swept::default();
        loop {
            let before = swept.expired;
            let expired = self.rows.expired().await?;
            for id in &expired {
                let Some(_lock) = self.locks.lock(id) else {
                    continue;
                };
                if self.rows.remove_expired(id).await? {
                    self.remove_file(store, id).await;
                    swept.expired += 1;
                }
            }
            if swept.expired == before || (expired.len() as i64) < SWEEP_ROWS {
                break;
            }
        }
        if !is_known {
            return Ok(swept);
        }
        let listing = Arc::clone(store);
        let files = blocking(move || Ok(listing.ids_in(PARTIAL)?)).await?;
        for some in files.chunks(SWEEP_ROWS as usize) {
            let open = self.rows.open_of(some).await?;
            for id in some.iter().filter(|id| !open.contains(id)) {
                swept.unused += u64::from(self.remove_unused(store, id).await?);
            }
        }
        self.end_lost(store, &files.into_iter().collect()).await?;
        Ok(swept)
    }

    /// Removes a file, if no upload has it.
    async fn remove_unused(&self, store: &Arc<Store>, id: &UploadId) -> Result<bool, UploadError> {
        let Some(_lock) = self.locks.lock(id) else {
            return Ok(false);
        };
        // Its row may have come after the look at all of them.
        let open = self.rows.open_of(std::slice::from_ref(id)).await?;
        Ok(open.is_empty() && self.remove_file(store, id).await)
    }

    /// Ends the uploads that should have a file in this folder, and have none.
    async fn end_lost(
        &self,
        store: &Arc<Store>,
        files: &HashSet<UploadId>,
    ) -> Result<(), UploadError> {
        let mut after = String::new();
        loop {
            let open = self.rows.open_after(&after, &store.identity).await?;
            let Some(last) = open.last() else {
                return Ok(());
            };
            after = last.as_str().to_owned();
            for id in open.iter().filter(|id| !files.contains(id)) {
                let Some(_lock) = self.locks.lock(id) else {
                    continue;
                };
                let (looking, looked_for) = (Arc::clone(store), id.clone());
                let bytes = blocking(move || Ok(looking.partial_bytes(&looked_for)?)).await?;
                if bytes.is_none() {
                    self.rows.end(id, "its file is lost").await?;
                }
            }
        }
    }
}
