//! The one place that opens and ends epochs of the pressure.
//!
//! An epoch asks subscribers to give memory back and waits for their answers. At most one is open.
//! Two kinds of work need one, a clean-up and a collection, and if each published its own they would
//! take the answers from each other: so a clean-up ends a collection that is under way, and a
//! collection never ends a clean-up.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};

use super::MemorySupervisor;
use crate::kernel::pressure::{Acknowledgement, Level, Stage};

/// What an epoch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Bringing the level down.
    CleanUp,
    /// Taking free memory from allocators.
    Collection,
}

/// The epoch that waits for answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenEpoch {
    number: u64,
    purpose: Purpose,
}

/// What subscribers are asked for.
pub(super) struct Ask {
    pub(super) purpose: Purpose,
    pub(super) level: Level,
    /// The last stage that is asked.
    pub(super) max_stage: Stage,
    pub(super) wanted_bytes: u64,
    /// How long they may take to answer.
    pub(super) within: Duration,
    /// Whether the allocator of this process is purged as well.
    pub(super) purges: bool,
}

impl MemorySupervisor {
    /// Publishes a level that asks nobody for anything. Ends the open epoch.
    pub(super) fn announce(&mut self, level: Level, wanted_bytes: u64) {
        self.end_epoch();
        self.shared.writer.publish(level, None, wanted_bytes);
    }

    /// Asks subscribers, and hands their answers to whoever asked. Refused, with `false`, for a
    /// collection while a clean-up waits for answers.
    pub(super) fn open_epoch(&mut self, ask: &Ask, context: &mut Context<Self>) -> bool {
        let Ask {
            purpose, purges, ..
        } = *ask;
        let is_open_for = |purpose| self.epoch.is_some_and(|open| open.purpose == purpose);
        if purpose == Purpose::Collection && is_open_for(Purpose::CleanUp) {
            return false;
        }
        self.end_epoch();
        let writer = &self.shared.writer;
        let number = writer.publish(ask.level, Some(ask.max_stage), ask.wanted_bytes);
        self.epoch = Some(OpenEpoch { number, purpose });
        let (shared, within) = (Arc::clone(&self.shared), ask.within);
        let answers = async move {
            let own = async {
                match purges {
                    true => shared.purge().await,
                    false => None,
                }
            };
            let others = shared.writer.acknowledgements(number, within);
            let (answers, own) = tokio::join!(others, own);
            answers.map(|mut answers| {
                answers.received.extend(own);
                (answers.received, answers.silent)
            })
        };
        context.spawn(
            wrap_future::<_, Self>(answers).map(move |answers, actor, context| {
                if let Some((came, silent)) = answers {
                    actor.on_answers(number, came, silent, context);
                }
            }),
        );
        true
    }

    fn on_answers(
        &mut self,
        number: u64,
        came: Vec<Acknowledgement>,
        silent: Vec<String>,
        context: &mut Context<Self>,
    ) {
        let Some(open) = self.epoch.take_if(|open| open.number == number) else {
            // Another epoch has begun since; these answers are about a past one.
            return;
        };
        match open.purpose {
            Purpose::CleanUp => self.answered(came, silent),
            Purpose::Collection => self.collected(came, silent),
        }
        // What was promised back is believed when it is seen.
        self.begin_reading(context);
    }

    /// Ends the open epoch without its answers.
    fn end_epoch(&mut self) {
        if let Some(open) = self.epoch.take()
            && open.purpose == Purpose::Collection
        {
            // The clean-up that takes its place asks for more than it did.
            self.collected(Vec::new(), Vec::new());
        }
    }
}
