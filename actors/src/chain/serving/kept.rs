//! Calls that read: answered from what is kept, or together with equal calls that run.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Serving;
use super::attempts::Answer;
use super::reading::Reading;
use crate::chain::cache::{Hold, Key, keep};
use crate::chain::error::ChainError;
use crate::chain::flights::{Joined, Leader};
use crate::chain::methods::Method;
use crate::chain::rpc::{Call, Outcome};

/// What somebody waits for who follows an equal call.
pub(super) enum Told {
    /// Its answer.
    Answer(Result<Outcome, ChainError>),
    /// Its caller has left: whoever is told this sends the call.
    Lead(Leader<Key>),
}

/// The lead of a flight, which goes to a follower if its caller leaves.
struct Lead {
    serving: Rc<Serving>,
    leader: Option<Leader<Key>>,
}

impl Lead {
    /// Tells the followers what the call ended with.
    fn end(mut self, answer: &Result<Outcome, ChainError>) {
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
        let mut flights = self.serving.flights.borrow_mut();
        let mut leader = self.leader.take();
        while let Some(left) = leader.take() {
            let waits = |follower: &oneshot::Sender<Told>| !follower.is_closed();
            let Some((next, follower)) = flights.hand_over(left, waits) else {
                return;
            };
            if let Err(Told::Lead(returned)) = follower.send(Told::Lead(next)) {
                leader = Some(returned);
            }
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
    ) -> Result<Outcome, ChainError> {
        let Some(key) = reading.key else {
            return self.ask_and_keep(call, method, &reading, deadline).await;
        };
        if let Some(text) = self.cache.borrow_mut().get(&key, Instant::now()) {
            return Ok(Outcome::Result(text));
        }
        let (teller, told) = oneshot::channel();
        let joined = self.flights.borrow_mut().join(key, teller);
        let leader = match joined {
            Joined::Alone(_) => return self.ask_and_keep(call, method, &reading, deadline).await,
            Joined::Leads(leader, _) => leader,
            Joined::Follows => match told.await {
                Ok(Told::Answer(answer)) => return answer,
                Ok(Told::Lead(leader)) => leader,
                Err(_) => return Err(ChainError::Panicked),
            },
        };
        let lead = Lead {
            serving: Rc::clone(self),
            leader: Some(leader),
        };
        let answer = self.ask_and_keep(call, method, &reading, deadline).await;
        lead.end(&answer);
        answer
    }

    async fn ask_and_keep(
        self: &Rc<Self>,
        call: &Arc<Call>,
        method: Method,
        reading: &Reading,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let mark = self.cache.borrow().mark();
        let shared = self.shared.borrow().clone();
        if let (Some(key), Some(shared)) = (reading.key, &shared)
            && let Some((text, kept)) = shared.get(&key).await
        {
            let mut cache = self.cache.borrow_mut();
            cache.insert(key, &text, kept, mark, Instant::now());
            return Ok(Outcome::Result(text));
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
                cache.insert(key, text, kept, mark, Instant::now());
                if let (Some(shared), Hold::Ever) = (shared, kept.hold) {
                    let text = text.clone();
                    self.spawn(async move { shared.put(&key, &text, kept).await });
                }
            }
        }
        Ok(answer.outcome)
    }
}
