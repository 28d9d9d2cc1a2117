//! Sends logs of `eth_getLogs` while others are searched, if they are many.
//!
//! What fails after the first logs were sent can be no error of JSON-RPC: the response ends without its last chunk, which
//! every client of HTTP takes for a failure. Calls in batches and over a WebSocket are answered whole.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use bytes::Bytes;
use futures_util::stream;
use headroom_actors::chain::rpc::{Call, Outcome};
use headroom_actors::chain::{ChainEntry, ChainError, SearchLogs, Searched};
use tokio::sync::mpsc;

use super::answer::{self, BEFORE_ID, BEFORE_RESULT, next_piece};
use super::callers::Caller;
use super::{RpcEdge, count, open, outcome_of};
use crate::connection::LongResponse;
use crate::figures::RpcFigures;
use crate::handles::RequestHandles;
use crate::problem::Problem;

/// The longest time for a whole search. Each of its steps has `server.request_deadline`.
const SEARCH_MAX: Duration = Duration::from_secs(15 * 60);

/// The answer to a search for logs.
pub(super) enum LogsAnswer {
    /// The whole answer.
    Whole(Result<Outcome, ChainError>),
    /// Many logs, of which the first are there.
    Parts(Parts),
}

/// What is left of a search after its last part.
type Ending = Pin<Box<dyn Future<Output = Result<Result<Searched, ChainError>, Problem>>>>;

/// The answer to a call, as it is sent.
pub(super) struct Parts {
    /// What is sent next.
    pieces: VecDeque<Bytes>,
    found: mpsc::Receiver<Bytes>,
    /// `None` after the end.
    ending: Option<Ending>,
    /// The name of the chain.
    chain: String,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
#[error("a search for logs has failed after the first logs were sent: {0}")]
struct Broken(String);

/// Searches the logs that `call` asks for.
pub(super) async fn search(
    edge: &RpcEdge,
    handles: &RequestHandles,
    chain: &ChainEntry,
    caller: Caller,
    call: Arc<Call>,
) -> Result<LogsAnswer, Problem> {
    let places = edge.enter(caller, 1)?;
    // The next part is fetched while one is sent.
    let (parts, mut found) = mpsc::channel(1);
    let (handles, entry) = (handles.clone(), chain.clone());
    let mut search: Ending = Box::pin(async move {
        let _places = places;
        let thread = handles.thread.clone();
        let work = async move {
            let _lease = open(&handles, &entry).await?;
            let message = SearchLogs {
                call,
                parts,
                within: handles.left(),
                step_within: handles.request_deadline,
            };
            Ok::<_, Problem>(entry.handle.ask(message, SEARCH_MAX).await?)
        };
        thread.run(work).await?
    });
    let mut ended = None;
    let first = tokio::select! {
        biased;
        first = found.recv() => first,
        end = &mut search => {
            ended = Some(end);
            // What was sent just before.
            found.recv().await
        }
    };
    let ending: Ending = match ended {
        Some(ended) => Box::pin(async { ended }),
        None => search,
    };
    match first {
        Some(first) => Ok(LogsAnswer::Parts(Parts {
            pieces: VecDeque::from([first]),
            found,
            ending: Some(ending),
            chain: chain.config.name.clone(),
        })),
        None => Ok(LogsAnswer::Whole(match ending.await? {
            Ok(Searched::Whole(outcome)) => Ok(outcome),
            // It says so after it has sent some.
            Ok(Searched::Streamed) => Err(ChainError::Panicked),
            Err(error) => Err(error),
        })),
    }
}

impl Parts {
    /// The response to the call with this id.
    pub(super) fn respond(mut self, id: Bytes, figures: Option<RpcFigures>) -> HttpResponse {
        let [before_id, before_result, bracket] =
            [BEFORE_ID, BEFORE_RESULT, b"["].map(Bytes::from_static);
        let mut pieces = VecDeque::from([before_id, id, before_result, bracket]);
        pieces.append(&mut self.pieces);
        self.pieces = pieces;
        let pieces = stream::unfold((self, figures), |(mut parts, figures)| async move {
            let piece = parts.next(figures.as_ref()).await?;
            Some((piece, (parts, figures)))
        });
        let mut response = HttpResponse::Ok();
        response.content_type(ContentType::json());
        let mut response = response.streaming(pieces);
        response.extensions_mut().insert(LongResponse);
        response
    }

    /// The next piece. `None` after the last one.
    async fn next(&mut self, figures: Option<&RpcFigures>) -> Option<Result<Bytes, Broken>> {
        loop {
            if let Some(piece) = next_piece(&mut self.pieces) {
                return Some(Ok(piece));
            }
            if let Some(part) = self.found.recv().await {
                self.pieces.extend([Bytes::from_static(b","), part]);
                continue;
            }
            let (outcome, reason) = match self.ending.take()?.await {
                Ok(Ok(Searched::Streamed)) => {
                    count(figures, Some("eth_getLogs"), "result");
                    return Some(Ok(Bytes::from_static(b"]}")));
                }
                Ok(Ok(Searched::Whole(_))) => ("error", "a provider refuses the rest".to_owned()),
                Ok(Err(error)) => (answer::kind(&error), error.to_string()),
                Err(problem) => (outcome_of(&problem), problem.detail.to_string()),
            };
            count(figures, Some("eth_getLogs"), outcome);
            let broken = Broken(reason);
            tracing::warn!(chain = self.chain, %broken, "a response was cut");
            return Some(Err(broken));
        }
    }
}
