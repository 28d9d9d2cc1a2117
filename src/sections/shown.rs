//! What a section or a line of it shows, and the schema of that.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::{OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::json;
use crate::last_known::{Answer, Silence};

/// What the schema of each section says.
pub(super) const DESCRIPTION: &str =
    "What the part says now; or why there is no answer, and what it said last.";

/// An answer of now as it is, without a state. Otherwise the last one with the state `no_answer`.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Shown<T> {
    Now(Arc<T>),
    NoAnswer(NoAnswer),
}

/// A part that did not answer in time.
#[derive(Serialize, ToSchema)]
pub(super) struct NoAnswer {
    #[schema(inline)]
    state: State,
    #[serde(flatten)]
    silence: Silence<Value>,
}

/// The state of a part that does not answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    NoAnswer,
}

impl<T: Serialize> From<Answer<T>> for Shown<T> {
    fn from(answer: Answer<T>) -> Self {
        match answer {
            Answer::Answered(now) => Self::Now(now),
            Answer::NoAnswer(silence) => Self::NoAnswer(NoAnswer {
                state: State::NoAnswer,
                silence: silence.map(|last| json(last)),
            }),
        }
    }
}

// By hand: the derive would write the schema of `T` here again, without its name.
impl<T: ToSchema> PartialSchema for Shown<T> {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(Ref::from_schema_name(T::name()))
            .item(Ref::from_schema_name(NoAnswer::name()))
            .description(Some(DESCRIPTION))
            .into()
    }
}

impl<T: ToSchema> ToSchema for Shown<T> {
    fn name() -> Cow<'static, str> {
        format!("Shown_{}", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into(), T::schema()));
        T::schemas(schemas);
        schemas.push((NoAnswer::name().into(), NoAnswer::schema()));
        NoAnswer::schemas(schemas);
    }
}
