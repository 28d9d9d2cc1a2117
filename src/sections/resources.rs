//! The section on what the loader has loaded and can load.

use headroom_actors::kernel::{AskError, Handle};
use headroom_actors::lazy::{Loader, Summarise, Summary};

use super::{Parts, Section};
use crate::last_known::ANSWER_WITHIN;

pub(super) struct Resources(pub(super) Handle<Loader>);

impl Section for Resources {
    const NAME: &'static str = "resources";
    type Answer = Summary;

    fn of(parts: &Parts<'_>) -> Self {
        Self(parts.handles.loader.clone())
    }

    async fn snapshot(&self) -> Result<Summary, AskError> {
        self.0.ask(Summarise, ANSWER_WITHIN).await
    }
}
