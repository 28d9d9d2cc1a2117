//! The section on the requests of the main listener.

use std::sync::Arc;

use headroom_actors::kernel::AskError;

use super::{Parts, Section};
use crate::figures::HttpFigures;
use crate::figures::http::HttpStatus;

pub(super) struct Http(Arc<HttpFigures>);

impl Section for Http {
    const NAME: &'static str = "http";
    type Answer = HttpStatus;

    fn of(parts: &Parts<'_>) -> Self {
        Self(Arc::clone(&parts.figures.http))
    }

    async fn snapshot(&self) -> Result<HttpStatus, AskError> {
        Ok(self.0.status())
    }
}
