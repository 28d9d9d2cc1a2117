//! Asks for a value within a bound, and shows what was said last where there is no answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headroom_actors::kernel::AskError;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// The last answer of somebody who is asked again and again.
#[derive(Debug, Default)]
pub(super) struct LastKnown(Mutex<Option<(Instant, Value)>>);

impl LastKnown {
    /// What `answer` resolves to within the bound: a JSON object.
    ///
    /// Otherwise the last answer with `"state": "no_answer"`, the time waited, the reason and the age of
    /// the last answer; without one, only the first three.
    pub(super) async fn or_answer(
        &self,
        answer: impl Future<Output = Result<Value, AskError>>,
        within: Duration,
    ) -> Value {
        let began = Instant::now();
        let answer = timeout(within, answer).await;
        let reason = match answer.unwrap_or(Err(AskError::TimedOut)) {
            Ok(value) => {
                *self.lock() = Some((Instant::now(), value.clone()));
                return value;
            }
            Err(reason) => reason,
        };
        let last = self.lock().clone();
        let (age, mut shown) = match last {
            Some((at, value @ Value::Object(_))) => (Some(at.elapsed().as_secs_f64()), value),
            _ => (None, json!({})),
        };
        shown["state"] = json!("no_answer");
        shown["waited_ms"] = json!(began.elapsed().as_secs_f64() * 1e3);
        shown["reason"] = json!(reason.to_string());
        if let Some(age) = age {
            shown["age_seconds"] = json!(age);
        }
        shown
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Value)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::advance;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(40);

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_the_last_one_is_shown_with_its_age() {
        let last_known = LastKnown::default();
        let never = last_known.or_answer(pending(), WITHIN).await;
        let expected = json!({
            "state": "no_answer",
            "waited_ms": 40.0,
            "reason": "no answer within the deadline",
        });
        assert_eq!(never, expected);

        let value = json!({ "size": 3 });
        let answered = last_known.or_answer(ready(Ok(value.clone())), WITHIN).await;
        assert_eq!(answered, value);
        advance(Duration::from_secs(5)).await;
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
        assert_eq!(refused, expected);
        let again = last_known.or_answer(ready(Ok(value.clone())), WITHIN).await;
        assert_eq!(again, value);
    }
}
