//! The section on the requests of the main listener.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use headroom_actors::kernel::AskError;
use serde_json::Value;
use std::sync::Arc;

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

    fn snapshot(&self) -> BoxFuture<'_, Result<Value, AskError>> {
        ready(Ok(json(self.0.status()))).boxed()
    }
}
