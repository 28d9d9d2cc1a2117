//! The section on uploads.

use headroom_actors::kernel::{AskError, Handle};
use headroom_actors::upload::{self, ReadUploads, Totals};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Parts, Section};
use crate::last_known::ANSWER_WITHIN;

pub(super) struct Uploads(Handle<upload::Uploads>);

/// The uploads together.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadsSection)]
pub(super) struct Snapshot {
    /// Uploads in progress.
    active: usize,
    /// The most uploads in progress.
    active_max: u32,
    /// Bytes that arrive per second: the sum of the average rates of those in progress.
    bytes_per_second: f64,
    /// What is stored, as of the last sweep; zero before the first upload.
    stored: Totals,
}

impl Section for Uploads {
    const NAME: &'static str = "uploads";
    type Answer = Snapshot;

    fn of(parts: &Parts<'_>) -> Self {
        Self(parts.handles.uploads.clone())
    }

    async fn snapshot(&self) -> Result<Snapshot, AskError> {
        let status = self.0.ask(ReadUploads, ANSWER_WITHIN).await?;
        let rates = status.active.iter().map(|active| active.bytes_per_second);
        Ok(Snapshot {
            active: status.active.len(),
            active_max: status.active_max,
            bytes_per_second: rates.sum(),
            stored: status.stored,
        })
    }
}
