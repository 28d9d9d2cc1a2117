//! The sections of `GET /api/performance/metrics`. Each part of the server adds its own.
//!
//! All sections are asked at the same time, and each has [`ANSWER_WITHIN`] to answer. So the document
//! comes in time whatever hangs. A section that does not answer is shown with what it said last.

mod actors;
mod http;
mod memory;
mod pools;
mod process;
mod resources;

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use headroom_actors::kernel::AskError;
use headroom_actors::memory::Overview;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::figures::Figures;
use crate::handles::Handles;
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, Answer, LastKnown};

/// One section of the document.
pub trait Section: Send + Sync {
    /// Its name in the document.
    fn name(&self) -> &'static str;

    /// The section now, as a JSON object. It has [`ANSWER_WITHIN`] to answer, and is dropped after that.
    fn snapshot(&self) -> BoxFuture<'_, Result<Value, AskError>>;
}

/// All sections of the document.
pub struct Sections(Vec<(Box<dyn Section>, LastKnown<Value>)>);

impl Sections {
    /// The sections of what every server has.
    pub fn new(
        figures: &Figures,
        memory: Overview,
        handles: &Handles,
        last_answers: &Arc<LastAnswers>,
    ) -> Self {
        Self(Vec::new())
            .with(process::Process::new(
                figures.process.clone(),
                memory.clone(),
            ))
            .with(memory::Memory::new(memory))
            .with(actors::Actors::new(handles.tree.clone()))
            .with(pools::Pools::new(
                handles.pools.clone(),
                Arc::clone(last_answers),
            ))
            .with(resources::Resources::new(handles.loader.clone()))
            .with(http::Http::new(figures.http.clone()))
    }

    /// Adds a section.
    #[must_use]
    pub fn with(mut self, section: impl Section + 'static) -> Self {
        self.0.push((Box::new(section), LastKnown::default()));
        self
    }

    /// Asks all sections.
    pub async fn document(&self) -> Map<String, Value> {
        let sections = self.0.iter().map(async |(section, last_known)| {
            let answer = section.snapshot();
            let shown = last_known.or_answer(answer, ANSWER_WITHIN).await;
            (section.name().to_owned(), shown_as_json(shown))
        });
        join_all(sections).await.into_iter().collect()
    }
}

/// An answer of now as it is, without its state. Otherwise the last one with the state `no_answer`.
fn shown_as_json(answer: Answer<Value>) -> Value {
    match answer.value() {
        Some(value) if answer.is_answered() => value.clone(),
        _ => json(answer),
    }
}

/// The JSON of a section. Null for a value that has no JSON, which no section has.
fn json(section: impl Serialize) -> Value {
    serde_json::to_value(section).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use headroom_actors::lazy::{self, Loader};
    use serde_json::json;
    use tokio::time::{Instant, advance, sleep};

    use super::*;

    /// A section that takes a while for each answer.
    struct Slow(&'static str, Duration);

    impl Section for Slow {
        fn name(&self) -> &'static str {
            self.0
        }

        fn snapshot(&self) -> BoxFuture<'_, Result<Value, AskError>> {
            async move {
                sleep(self.1).await;
                Ok(json!({ "took_ms": self.1.as_millis() }))
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn a_part_that_does_not_run_is_shown_as_such_at_once() {
        let loader = Loader::handle(&lazy::Config::default());
        let sections = Sections(Vec::new()).with(resources::Resources::new(loader));
        let document = sections.document().await;
        let resources = &document["resources"];
        assert_eq!(resources["state"], "no_answer");
        assert_eq!(resources["reason"], "the actor is restarting");
        assert!(resources["waited_ms"].as_f64().is_some_and(|ms| ms < 40.0));
        assert_eq!(resources["age_seconds"], Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn sections_are_asked_at_the_same_time_and_one_that_hangs_delays_none() {
        let ms = Duration::from_millis;
        let sections = Sections(Vec::new())
            .with(Slow("quick", ms(0)))
            .with(Slow("slow", ms(39)))
            .with(Slow("slow_as_well", ms(39)))
            .with(Slow("hangs", ms(1_000_000)));
        for _ in 0..3 {
            let began = Instant::now();
            let document = sections.document().await;
            assert!(began.elapsed() < ms(50), "{:?}", began.elapsed());
            assert_eq!(document["quick"], json!({ "took_ms": 0 }));
            assert_eq!(document["slow"], json!({ "took_ms": 39 }));
            assert_eq!(document["slow_as_well"], json!({ "took_ms": 39 }));
            assert_eq!(document["hangs"]["state"], "no_answer");
            advance(ms(1)).await;
        }
    }
}
