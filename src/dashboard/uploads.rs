//! The uploads in the status. What is stored is known without the database.

use headroom_actors::upload::{ActiveUpload, Totals, UploadsStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::keep_first;

/// The uploads in progress, and what is stored.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StatusUploads)]
pub struct Uploads {
    /// How many are in progress.
    pub in_progress: usize,
    /// The most uploads in progress.
    pub active_max: u32,
    /// The uploads in progress, the oldest first; at most 20.
    pub active: Vec<ActiveUpload>,
    /// Further ones, which are not listed. `GET /api/uploads/active` has all.
    pub not_listed: usize,
    /// What is stored; zero before the first upload since the start.
    pub stored: Totals,
}

/// Uploads that are listed.
const LISTED_MAX: usize = 20;

impl Uploads {
    pub(super) fn new(status: UploadsStatus) -> Self {
        let all = Self {
            in_progress: status.active.len(),
            active_max: status.active_max,
            active: status.active,
            not_listed: 0,
            stored: status.stored,
        };
        all.first(LISTED_MAX)
    }

    /// With at most the first `count` uploads.
    pub(super) fn first(mut self, count: usize) -> Self {
        self.not_listed += keep_first(&mut self.active, count);
        self
    }
}
