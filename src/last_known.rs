//! Asks for a value within a bound, and shows what was said last where there is no answer.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_actors::kernel::AskError;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

/// How long a part of the server may take to answer a request for its state. What a request shows takes
/// little more.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(40);

/// An answer, and when it was given.
type Given<T> = (Instant, Arc<T>);

/// The last answer of somebody who is asked again and again. Clones share it.
#[derive(Debug)]
pub struct LastKnown<T>(Arc<Mutex<Option<Given<T>>>>);

impl<T> Default for LastKnown<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for LastKnown<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> LastKnown<T> {
    /// What `answer` resolves to within the bound; otherwise the last answer, and why there is none.
    pub async fn or_answer<E: Display>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
        within: Duration,
    ) -> Answer<T> {
        let began = Instant::now();
        match timeout(within, answer).await {
            Ok(Ok(value)) => self.answered(value),
            Ok(Err(reason)) => self.silent(began, &reason),
            Err(_) => self.silent(began, &AskError::TimedOut),
        }
    }

    /// Like [`Self::or_answer`], but an answer that comes too late is the last one for the next request.
    /// `answer` must have a bound of its own.
    pub async fn or_late_answer<E: Display + 'static>(
        &self,
        answer: impl Future<Output = Result<T, E>> + 'static,
        within: Duration,
    ) -> Answer<T>
    where
        T: 'static,
    {
        let began = Instant::now();
        let last_known = self.clone();
        let late = actix_web::rt::spawn(async move {
            let answer = answer.await;
            answer.map(|value| last_known.answered(value))
        });
        match timeout(within, late).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(reason))) => self.silent(began, &reason),
            Ok(Err(_)) => self.silent(began, &AskError::Lost),
            Err(_) => self.silent(began, &AskError::TimedOut),
        }
    }

    /// Takes note of an answer of now, and shows it.
    pub fn answered(&self, value: T) -> Answer<T> {
        let value = Arc::new(value);
        *self.lock() = Some((Instant::now(), Arc::clone(&value)));
        Answer::of(value)
    }

    /// Shows the last answer. There is none now for this `reason`, after a wait since `began`.
    pub fn silent(&self, began: Instant, reason: &impl Display) -> Answer<T> {
        let last = self.lock().clone();
        let age = last.as_ref().map(|(at, _)| at.elapsed());
        Answer::none(began, reason, last.map(|(_, value)| value), age)
    }

    /// The last answer, and its age.
    pub fn last(&self) -> Option<(Duration, Arc<T>)> {
        let last = self.lock();
        last.as_ref()
            .map(|(at, value)| (at.elapsed(), Arc::clone(value)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Given<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a part of the server says, or what it said last. As JSON, the members of the value are beside
/// `state`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Answer<T> {
    /// It is of now.
    Answered(Arc<T>),
    /// There was none in time.
    NoAnswer(Silence<T>),
}

/// Why there is no answer, and what was said last.
#[derive(Debug, Serialize, ToSchema)]
pub struct Silence<T> {
    /// How long it was waited for.
    pub waited_ms: f64,
    /// Why there is none.
    pub reason: String,
    /// The age of the last answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// The members of the last answer, if there was one.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    last: Option<Arc<T>>,
}

// By hand, because the value is shared: it need not be `Clone`.
impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Answered(value) => Self::Answered(Arc::clone(value)),
            Self::NoAnswer(silence) => Self::NoAnswer(silence.clone()),
        }
    }
}

impl<T> Clone for Silence<T> {
    fn clone(&self) -> Self {
        Self {
            waited_ms: self.waited_ms,
            reason: self.reason.clone(),
            age_seconds: self.age_seconds,
            last: self.last.clone(),
        }
    }
}

impl<T> Answer<T> {
    /// An answer of now.
    pub fn of(value: Arc<T>) -> Self {
        Self::Answered(value)
    }

    /// No answer, after a wait since `began`; and what was said last, if that is known.
    pub fn none(
        began: Instant,
        reason: &impl Display,
        last: Option<Arc<T>>,
        age: Option<Duration>,
    ) -> Self {
        Self::NoAnswer(Silence {
            waited_ms: began.elapsed().as_secs_f64() * 1e3,
            reason: reason.to_string(),
            age_seconds: age.map(|age| age.as_secs_f64()),
            last,
        })
    }

    /// Whether this is an answer of now.
    pub fn is_answered(&self) -> bool {
        matches!(self, Self::Answered(_))
    }

    /// What was said.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Answered(value) => Some(value),
            Self::NoAnswer(silence) => silence.last.as_deref(),
        }
    }

    /// Why there is no answer of now.
    pub fn silence(&self) -> Option<&Silence<T>> {
        match self {
            Self::Answered(_) => None,
            Self::NoAnswer(silence) => Some(silence),
        }
    }

    /// The same answer with another value.
    pub fn map<U>(self, value: impl FnOnce(&T) -> U) -> Answer<U> {
        match self {
            Self::Answered(it) => Answer::Answered(Arc::new(value(&it))),
            Self::NoAnswer(silence) => Answer::NoAnswer(silence.map(value)),
        }
    }
}

impl<T> Silence<T> {
    /// The same with another last answer.
    pub fn map<U>(self, value: impl FnOnce(&T) -> U) -> Silence<U> {
        Silence {
            waited_ms: self.waited_ms,
            reason: self.reason,
            age_seconds: self.age_seconds,
            last: self.last.map(|it| Arc::new(value(&it))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use serde_json::{Value, json};
    use tokio::time::{advance, sleep};

    use super::*;

    const WITHIN: Duration = Duration::from_millis(40);
    const SECOND: Duration = Duration::from_secs(1);

    fn text(answer: &Answer<Value>) -> Value {
        serde_json::to_value(answer).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_the_last_one_is_shown_with_its_age() {
        let last_known = LastKnown::default();
        let hangs = pending::<Result<_, AskError>>();
        let never = last_known.or_answer(hangs, WITHIN).await;
        assert!(!never.is_answered());
        let expected = json!({
            "state": "no_answer",
            "waited_ms": 40.0,
            "reason": "no answer within the deadline",
        });
        assert_eq!(text(&never), expected);

        let value = json!({ "size": 3 });
        let answer = || ready(Ok::<_, AskError>(value.clone()));
        let answered = last_known.or_answer(answer(), WITHIN).await;
        assert_eq!(text(&answered), json!({ "size": 3, "state": "answered" }));
        advance(5 * SECOND).await;
        let refused = last_known
            .or_answer(ready(Err(AskError::Stopped)), WITHIN)
            .await;
        let expected = json!({
            "size": 3,
            "state": "no_answer",
            "waited_ms": 0.0,
            "reason": "the actor is stopped",
            "age_seconds": 5.0,
        });
        assert_eq!(text(&refused), expected);
        let again = last_known.or_answer(answer(), WITHIN).await;
        assert_eq!(again.value(), Some(&value));
    }

    #[actix_web::rt::test]
    async fn an_answer_that_is_too_late_is_the_last_one_of_the_next_request() {
        let last_known = LastKnown::default();
        let late = async {
            sleep(3 * WITHIN).await;
            Ok::<_, AskError>(json!({ "size": 3 }))
        };
        let now = last_known.or_late_answer(late, WITHIN).await;
        assert_eq!((now.is_answered(), now.value()), (false, None));
        let deadline = Instant::now() + 10 * SECOND;
        while last_known.last().is_none() {
            assert!(Instant::now() < deadline, "the late answer is not kept");
            sleep(WITHIN).await;
        }
        let hangs = pending::<Result<_, AskError>>();
        let next = last_known.or_late_answer(hangs, WITHIN).await;
        assert_eq!(next.value(), Some(&json!({ "size": 3 })));
        let soon = last_known.or_late_answer(ready(Ok::<_, AskError>(json!({}))), SECOND);
        assert!(soon.await.is_answered());
    }
}
