//! One request to a provider with its answer: what came of each call, and what that says of the provider.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

use super::classify::{Meaning, classify, refuses_batches};
use super::fault::{ErrorKind, Fault};
use super::figures::Class;
use super::served_chain::{ensure_chain, number};
use super::shared::Shared;
use super::transport::{HttpAnswer, Transport};
use super::wire::{Answers, Member, contains_any, parts, read, write};
use crate::chain::methods::{Depends, Effect, Method, Weight};
use crate::chain::rpc::{Call, Outcome};

/// A larger answer is read on another thread: the actors' thread must stay free.
const SMALL: usize = 256 * 1024;

/// An error that is longer is no answer of a server that has failed.
const ERROR_BODY_MAX: usize = 64 * 1024;

/// How many of the calls of a refused batch are sent at once.
const SINGLES_MAX: usize = 4;

type CallResult = Result<Outcome, Fault>;

/// What is said in place of an error that contains a secret of the settings.
const HIDDEN: &[u8] = br#"{"code":-32603,"message":"the provider failed"}"#;

/// Sends the calls, and records what comes of them. Results are in the order of the calls. The caller holds the guard of the
/// request.
pub(super) async fn exchange(
    shared: &Arc<Shared>,
    transport: &Transport,
    calls: &[Arc<Call>],
) -> Vec<CallResult> {
    if calls.len() == 1 {
        return request(shared, transport, calls).await.unwrap_or_default();
    }
    match request(shared, transport, calls).await {
        Some(results) => results,
        // The batch was refused: none of its calls was served.
        None => {
            let single = |call: Arc<Call>| async move {
                let _request = shared.begin_request();
                let results = request(shared, transport, std::slice::from_ref(&call)).await;
                results.and_then(|mut results| results.pop())
            };
            let singles = stream::iter(calls.iter().cloned().map(single));
            let results = singles.buffered(SINGLES_MAX).collect::<Vec<_>>().await;
            let missing = || Err(Fault::NotRpc("an answer is missing"));
            results
                .into_iter()
                .map(|it| it.unwrap_or_else(missing))
                .collect()
        }
    }
}

/// Makes one request. `None` if the provider refuses batches, which is remembered.
async fn request(
    shared: &Arc<Shared>,
    transport: &Transport,
    calls: &[Arc<Call>],
) -> Option<Vec<CallResult>> {
    let sent = Sent::new(shared, calls);
    let first_id = shared.ids(calls.len());
    let body = write(first_id, calls.iter().map(|call| parts(call)));
    let answered = async {
        let answer = transport.post(body, shared.config.timeout).await?;
        let status = answer.status;
        let answers = answers(answer, first_id, calls.len()).await?;
        // What came over a connection that the provider has not told its chain over may be of another chain.
        ensure_chain(shared, transport, false).await?;
        Ok((answers, status))
    };
    let (answers, status) = match answered.await {
        Ok(answered) => answered,
        Err(Fault::Status(status)) if calls.len() > 1 && may_refuse_batches(status) => {
            sent.refused_batch(status == 413);
            return None;
        }
        Err(fault) => {
            let results: Vec<_> = calls.iter().map(|_| Err(fault.clone())).collect();
            sent.record(&results, Some(&fault));
            return Some(results);
        }
    };
    let results: Vec<_> = match answers {
        Answers::Each(members) => calls
            .iter()
            .zip(members)
            .map(|(call, member)| match member {
                Some(member) => match shared.outcome(call, member) {
                    // The key is wrong, whatever else is said. Checks of the provider find that too; a caller could cause it.
                    Ok(Outcome::Error(_)) if matches!(status, 401..=403) => {
                        Err(Fault::Denied(status))
                    }
                    result => result,
                },
                None => Err(Fault::NotRpc("an answer is missing")),
            })
            .collect(),
        Answers::Refused(error) => {
            let text = String::from_utf8_lossy(&error);
            if refuses_batches(&text) {
                let is_too_long = ["limit", "large", "max", "many", "size", "exceed"];
                let text = text.to_ascii_lowercase();
                sent.refused_batch(is_too_long.iter().any(|word| text.contains(word)));
                return None;
            }
            let refused = |call: &Arc<Call>| {
                let member = Member::Error(error.clone());
                // Whatever it is, it is not of this one call.
                let whole = Err(Fault::Error {
                    kind: ErrorKind::Internal,
                    error: error.clone(),
                });
                match shared.outcome(call, member) {
                    Ok(_) => whole,
                    fault => fault,
                }
            };
            calls.iter().map(refused).collect()
        }
    };
    sent.record(&results, None);
    Some(results)
}

/// Statuses with which servers refuse batches.
fn may_refuse_batches(status: u16) -> bool {
    matches!(status, 400 | 405 | 413 | 422 | 501)
}

/// Reads an answer of HTTP. Many providers write errors of JSON-RPC with other statuses than 200.
pub(super) async fn answers(
    answer: HttpAnswer,
    first_id: u64,
    count: usize,
) -> Result<Answers, Fault> {
    let HttpAnswer {
        status,
        retry_after,
        body,
    } = answer;
    if status == 429 || (status == 503 && retry_after.is_some()) {
        return Err(Fault::Throttled { retry_after });
    }
    if status != 200 {
        if !(400..600).contains(&status) || body.len() > ERROR_BODY_MAX {
            return Err(Fault::Status(status));
        }
        return match read(&body, first_id, count) {
            Ok(answers) if is_error(&answers) => Ok(answers),
            _ => Err(Fault::Status(status)),
        };
    }
    if body.len() <= SMALL {
        return read(&body, first_id, count).map_err(Fault::NotRpc);
    }
    let reading = tokio::task::spawn_blocking(move || read(&body, first_id, count));
    let answers = reading.await.unwrap_or(Err("it cannot be read"));
    answers.map_err(Fault::NotRpc)
}

fn is_error(answers: &Answers) -> bool {
    match answers {
        Answers::Refused(_) => true,
        Answers::Each(each) => each.iter().any(|it| matches!(it, Some(Member::Error(_)))),
    }
}

impl Shared {
    /// What an answer means for its caller.
    pub(super) fn outcome(&self, call: &Call, member: Member) -> CallResult {
        let error = match member {
            Member::Result(result) => return Ok(Outcome::Result(result)),
            Member::Error(error) => error,
        };
        // The text is JSON, so it is UTF-8.
        let classified = classify(call, std::str::from_utf8(&error).unwrap_or_default());
        let error = match contains_any(&error, &self.secrets) {
            true => Bytes::from_static(HIDDEN),
            false => error,
        };
        if let Some(blocks) = classified.logs_range_max {
            self.state()
                .learned
                .set_logs_range_max(blocks, Instant::now());
        }
        match classified.meaning {
            Meaning::Caller => Ok(Outcome::Error(error)),
            Meaning::Provider(kind) => Err(Fault::Error { kind, error }),
            Meaning::Throttled { retry_after } => Err(Fault::Throttled { retry_after }),
        }
    }
}

/// Calls that were sent and have no answer yet. If it is dropped before [`Sent::record`], they were given up.
struct Sent<'a> {
    shared: &'a Shared,
    calls: &'a [Arc<Call>],
    weight: Weight,
    at: Instant,
    is_over: bool,
}

impl<'a> Sent<'a> {
    fn new(shared: &'a Shared, calls: &'a [Arc<Call>]) -> Self {
        let weights = calls.iter().map(|call| Method::of(&call.method).weight);
        shared.meters.request();
        Self {
            shared,
            calls,
            weight: weights.max().unwrap_or(Weight::Light),
            at: Instant::now(),
            is_over: false,
        }
    }

    /// The calls are sent once more, one by one.
    fn refused_batch(mut self, too_long: bool) {
        self.is_over = true;
        let now = Instant::now();
        let mut state = self.shared.state();
        state.learned.refused_batch(self.calls.len(), too_long, now);
    }

    /// Records the results, which all have the fault `whole` if there is one.
    fn record(mut self, results: &[CallResult], whole: Option<&Fault>) {
        // They were given up, which says nothing of the provider.
        if matches!(whole, Some(Fault::NoMemory)) {
            return;
        }
        self.is_over = true;
        let now = Instant::now();
        let took = now.saturating_duration_since(self.at);
        let shared = self.shared;
        let mut state = shared.state();
        for (call, result) in self.calls.iter().zip(results) {
            let class = class(result);
            state.figures.ended(class);
            shared.meters.call(class);
            match result {
                Err(Fault::Error { kind, .. }) => match kind {
                    ErrorKind::Unsupported => state.learned.unsupported(&call.method, now),
                    ErrorKind::Pruned => learn_pruned(&mut state, call, now),
                    _ => {}
                },
                Err(Fault::Throttled { retry_after }) => {
                    state.budget.refused(self.at, now, *retry_after);
                }
                Ok(Outcome::Result(_)) => state.learned.answered(&call.method),
                _ => {}
            }
        }
        if let Some(fault) = results.iter().find_map(|result| result.as_ref().err()) {
            state.last_fault = Some(fault.to_string());
        }
        // What fails at once must not look quick.
        if matches!(whole, None | Some(Fault::Timeout(_))) {
            state.figures.took(self.weight, took);
            shared.meters.took(took);
        }
        let failure = match whole {
            Some(fault) => is_failure(fault, self.weight),
            None if results.iter().any(Result::is_ok) => Some(false),
            None => results
                .iter()
                .any(|result| matches!(result, Err(Fault::NotRpc(_))))
                .then_some(true),
        };
        if failure == Some(false) {
            state.budget.answered(self.at);
        }
        if let Some(failed) = failure
            && state.circuit.record(failed, now)
        {
            shared.circuit_has_opened(state.last_fault.as_deref().unwrap_or_default());
        }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.shared.state();
            state.figures.given_up(self.weight, self.at.elapsed());
        }
    }
}

/// Whether a fault of a whole request counts as a failure for the circuit. `None`: it says nothing.
///
/// What a single caller can cause does not count: a search that takes too long, an answer that is too large, a status that
/// refuses this request.
fn is_failure(fault: &Fault, weight: Weight) -> Option<bool> {
    match fault {
        Fault::Timeout(_) if weight == Weight::Heavy => None,
        Fault::Connect(_) | Fault::Timeout(_) | Fault::Torn | Fault::NotRpc(_) => Some(true),
        Fault::Status(400 | 413 | 414 | 415 | 422 | 431) => None,
        Fault::Status(_) => Some(true),
        _ => None,
    }
}

fn class(result: &CallResult) -> Class {
    match result {
        Ok(Outcome::Result(_)) => Class::Result,
        Ok(Outcome::Error(_)) => Class::CallerError,
        Err(fault) => match fault {
            Fault::Connect(_) | Fault::Unused(_) | Fault::Owner(_) | Fault::NoMemory => {
                Class::Connect
            }
            Fault::Timeout(_) => Class::Timeout,
            Fault::Torn => Class::Torn,
            Fault::Status(_) | Fault::Denied(_) => Class::Status,
            Fault::Throttled { .. } => Class::Throttled,
            Fault::NotRpc(_) | Fault::TooLarge { .. } => Class::Invalid,
            Fault::Error { kind, .. } if *kind == ErrorKind::Internal => Class::ProviderError,
            Fault::Error { .. } => Class::Lacking,
        },
    }
}

/// Remembers the depth of the block whose state is missing, if the call names it by its number.
fn learn_pruned(state: &mut super::shared::State, call: &Call, now: Instant) {
    let Some(head) = state.head.as_ref().map(|head| head.block.number) else {
        return;
    };
    let Effect::Reads(Depends::Block(place)) = Method::of(&call.method).effect else {
        return;
    };
    let params = serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(&call.params);
    let block = params
        .ok()
        .and_then(|params| number(params.get(place)?.get().as_bytes()));
    if let Some(block) = block.filter(|block| *block < head) {
        state.learned.missing_state(block, head, now);
    }
}
