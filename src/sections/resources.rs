//! The section on what the loader has loaded and can load.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headroom_actors::kernel::{AskError, Handle};
use headroom_actors::lazy::{Loader, Summarise};
use serde_json::Value;

use super::{Section, json};
use crate::last_known::ANSWER_WITHIN;

pub(super) struct Resources(Handle<Loader>);

impl Resources {
    pub(super) fn new(loader: Handle<Loader>) -> Self {
        Self(loader)
    }
}

impl Section for Resources {
    fn name(&self) -> &'static str {
        "resources"
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Value, AskError>> {
        async move { Ok(json(self.0.ask(Summarise, ANSWER_WITHIN).await?)) }.boxed()
    }
}
