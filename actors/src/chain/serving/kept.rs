//! Calls that read: answered from what is kept, or together with equal calls that run.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Serving;
use super::attempts::Answer;
use super::reading::Reading;
use crate::chain::cache::{Hold, Key, Mark, keep};
use crate::chain::error::ChainError;
use crate::chain::flights::{Joined, Leader};
use crate::chain::methods::Method;
use crate::chain::rpc::{Call, Outcome};

/// What somebody waits for who follows an equal call.
pub(super) enum Told {
    /// Its answer.
    Answer(Result<Answer, ChainError>),
    /// Its caller has left: whoever is told this sends the call.
    Lead(Lead),
}

/// What equal calls have in common: their key, what their callers have seen, and the state of the chain when they were sent.
pub(super) type FlightKey = (Key, Option<u64>, Mark);

/// The lead of a flight, which goes to a follower if its caller leaves, also before that one knows that it has it.
pub(super) struct Lead {
    serving: Rc<Serving>,
    leader: Option<Leader<FlightKey>>,
}

impl Lead {
    /// Tells the followers what the call ended with.
    fn end(mut self, answer: &Result<Answer, ChainError>) {
        if let Some(leader) = self.leader.take() {
            let followers = self.serving.flights.borrow_mut().end(leader);
            for follower in followers {
                // It may have left.
                follower.send(Told::Answer(answer.clone())).ok();
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let Some(leader) = self.leader.take() else {
            return;
        };
        let waits = |follower: &oneshot::Sender<Told>| !follower.is_closed();
        let next = self.serving.flights.borrow_mut().hand_over(leader, waits);
        if let Some((leader, follower)) = next {
            let lead = Self {
                serving: Rc::clone(&self.serving),
                leader: Some(leader),
            };
            // If this follower leaves before it reads this, the lead is dropped and goes to the next one.
            follower.send(Told::Lead(lead)).ok();
        }
    }
}

impl Serving {
    /// Answers a call that reads and needs `needs`. Equal calls have the same answer, as long as it holds.
    pub(super) async fn read(
        self: &Rc<Self>,
        call: &Arc<Call>,
        method: Method,
        reading: Reading,
        deadline: Instant,
    ) -> Result<Answer, ChainError> {
        let Some(key) = reading.key else {
            return self.ask_and_keep(call, method, &reading, deadline).await;
        };
        if let Some(text) = self.cache.borrow_mut().get(&key, Instant::now()) {
            return Ok(Answer::kept(text));
        }
        let (teller, told) = oneshot::channel();
        let flight = (key, reading.seen, self.cache.borrow().mark());
        let joined = self.flights.borrow_mut().join(flight, teller);
        let lead = match joined {
            Joined::Alone(_) => return self.ask_and_keep(call, method, &reading, deadline).await,
            Joined::Leads(leader, _) => Lead {
                serving: Rc::clone(self),
                leader: Some(leader),
            },
            Joined::Follows => match told.await {
                Ok(Told::Answer(answer)) => return answer,
                Ok(Told::Lead(lead)) => lead,
                Err(_) => return Err(ChainError::Panicked),
            },
        };
        let answer = self.ask_and_keep(call, method, &reading, deadline).await;
        match answer.is_err() && Instant::now() >= deadline {
            // The others may have more time: one of them asks again.
            true => drop(lead),
            false => lead.end(&answer),
        }
        answer
    }

    async fn ask_and_keep(
        self: &Rc<Self>,
        call: &Arc<Call>,
        method: Method,
        reading: &Reading,
        deadline: Instant,
    ) -> Result<Answer, ChainError> {
        let mark = self.cache.borrow().mark();
        let shared = self.shared.borrow().clone();
        if let (Some(key), Some(shared)) = (reading.key, &shared)
            && let Some((text, kept)) = shared.get(&key).await
        {
            let mut cache = self.cache.borrow_mut();
            cache.insert(key, &text, kept, mark, Instant::now());
            return Ok(Answer::kept(text));
        }
        let answer = self.attempt(call, method, &reading.needs, deadline).await?;
        if let Answer {
            outcome: Outcome::Result(text),
            provider: Some(provider),
            ..
        } = &answer
        {
            self.reveal(*provider, &call.method, text);
            self.begin_to_catch_up();
            let upstream = &self.upstreams[*provider];
            let heads = self.heads.borrow();
            let kept = keep(&call.method, &call.params, text, &upstream.name, &heads);
            if let (Some(key), Some(kept)) = (reading.key, kept) {
                let mut cache = self.cache.borrow_mut();
                let is_kept = cache.insert(key, text, kept, mark, Instant::now());
                if let (true, Some(shared), Hold::Ever) = (is_kept, shared, kept.hold) {
                    let text = text.clone();
                    self.spawn(async move { shared.put(&key, &text, kept).await });
                }
            }
        }
        Ok(answer)
    }
}
