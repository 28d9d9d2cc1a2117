//! The section on the requests of the main listener.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use headroom_actors::kernel::AskError;
use serde_json::Value;

use super::{Section, json};
use crate::figures::HttpFigures;

pub(super) struct Http(Arc<HttpFigures>);

impl Http {
    pub(super) fn new(figures: Arc<HttpFigures>) -> Self {
        Self(figures)
    }
}

impl Section for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn snapshot(&self, _within: Duration) -> BoxFuture<'_, Result<Value, AskError>> {
        ready(Ok(json(self.0.status()))).boxed()
    }
}
