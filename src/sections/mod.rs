//! The sections of `GET /api/performance/metrics`. Each part of the server adds its own.
//!
//! All sections are asked at the same time, and each has [`ANSWER_WITHIN`] to answer. So the document
//! comes in time whatever hangs. A section that does not answer is shown with what it said last.

mod actors;
mod chains;
mod http;
mod memory;
mod pools;
mod process;
mod resources;
mod shown;
mod uploads;

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use headroom_actors::kernel::AskError;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::figures::Figures;
use crate::handles::Handles;
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, LastKnown};
use shown::Shown;

/// Every section. A further part of the server adds its own here.
fn entries() -> Vec<Entry> {
    vec![
        Entry::of::<process::Process>(),
        Entry::of::<memory::Memory>(),
        Entry::of::<actors::Actors>(),
        Entry::of::<pools::Pools>(),
        Entry::of::<resources::Resources>(),
        Entry::of::<uploads::Uploads>(),
        Entry::of::<chains::Chains>(),
        Entry::of::<http::Http>(),
    ]
}

/// One section of the document.
pub trait Section: Send + Sync + Sized + 'static {
    /// Its name in the document.
    const NAME: &'static str;

    /// What it says: a JSON object. Its schema is part of the OpenAPI document.
    type Answer: Serialize + ToSchema + Send + Sync + 'static;

    /// The section of these parts of the server.
    fn of(parts: &Parts<'_>) -> Self;

    /// The section now. It has [`ANSWER_WITHIN`] to answer, and is dropped after that.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Answer, AskError>> + Send;
}

/// What sections are made from.
pub struct Parts<'a> {
    /// What the server measures of itself.
    pub figures: &'a Figures,
    /// The handles of the actors, and what needs no call.
    pub handles: &'a Handles,
    /// The last answers, which others ask for too.
    pub last_answers: &'a Arc<LastAnswers>,
}

/// All sections of the document.
pub struct Sections(Vec<(&'static str, Box<dyn Ask>)>);

impl Sections {
    /// The sections of a server.
    pub fn new(parts: &Parts<'_>) -> Self {
        let sections = entries().into_iter();
        Self(sections.map(|it| (it.name, (it.make)(parts))).collect())
    }

    /// Asks all sections.
    pub async fn document(&self) -> Map<String, Value> {
        let sections = self.0.iter();
        let sections =
            sections.map(async |(name, section)| ((*name).to_owned(), section.ask().await));
        join_all(sections).await.into_iter().collect()
    }
}

impl PartialSchema for Sections {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().description(Some("The sections by name."));
        let sections = entries().into_iter();
        let object = sections.fold(object, |object, it| {
            object.property(it.name, (it.schema)()).required(it.name)
        });
        object.into()
    }
}

impl ToSchema for Sections {
    fn name() -> Cow<'static, str> {
        "MetricsSections".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for entry in entries() {
            (entry.schemas)(schemas);
        }
    }
}

/// How a section is made, and its schemas.
struct Entry {
    name: &'static str,
    make: fn(&Parts<'_>) -> Box<dyn Ask>,
    schema: fn() -> RefOr<Schema>,
    schemas: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Entry {
    fn of<S: Section>() -> Self {
        Self {
            name: S::NAME,
            make: |parts| Box::new(Kept::new(S::of(parts))),
            schema: || {
                let mut reference = Ref::from_schema_name(Shown::<S::Answer>::name());
                reference.description = shown::DESCRIPTION.into();
                reference.into()
            },
            schemas: |schemas| {
                let shown = Shown::<S::Answer>::schema();
                schemas.push((Shown::<S::Answer>::name().into(), shown));
                Shown::<S::Answer>::schemas(schemas);
            },
        }
    }
}

/// A section of any type.
trait Ask: Send + Sync {
    /// The JSON of the section.
    fn ask(&self) -> BoxFuture<'_, Value>;
}

/// A section with its last answer.
struct Kept<S: Section> {
    section: S,
    last: LastKnown<S::Answer>,
}

impl<S: Section> Kept<S> {
    fn new(section: S) -> Self {
        let last = LastKnown::default();
        Self { section, last }
    }
}

impl<S: Section> Ask for Kept<S> {
    fn ask(&self) -> BoxFuture<'_, Value> {
        let answer = self.last.or_answer(self.section.snapshot(), ANSWER_WITHIN);
        answer.map(|answer| json(Shown::from(answer))).boxed()
    }
}

/// The JSON of a section. Null for a value that has no JSON, which no section has.
fn json(section: impl Serialize) -> Value {
    serde_json::to_value(section).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headroom_actors::lazy::{self, Loader};
    use serde_json::json;
    use tokio::time::{Instant, advance, sleep};

    use super::*;

    /// A section that takes a while for each answer.
    struct Slow(Duration);

    /// How long it took.
    #[derive(Serialize, ToSchema)]
    struct Took {
        took_ms: u128,
    }

    impl Section for Slow {
        const NAME: &'static str = "slow";
        type Answer = Took;

        fn of(_: &Parts<'_>) -> Self {
            Self(Duration::ZERO)
        }

        async fn snapshot(&self) -> Result<Took, AskError> {
            sleep(self.0).await;
            let took_ms = self.0.as_millis();
            Ok(Took { took_ms })
        }
    }

    fn kept(section: impl Section) -> Box<dyn Ask> {
        Box::new(Kept::new(section))
    }

    #[tokio::test]
    async fn a_part_that_does_not_run_is_shown_as_such_at_once() {
        let loader = Loader::handle(&lazy::Config::default());
        let sections = Sections(vec![("resources", kept(resources::Resources(loader)))]);
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
        let sections = Sections(vec![
            ("quick", kept(Slow(ms(0)))),
            ("slow", kept(Slow(ms(39)))),
            ("slow_as_well", kept(Slow(ms(39)))),
            ("hangs", kept(Slow(ms(1_000_000)))),
        ]);
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
