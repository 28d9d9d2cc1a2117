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

use super::answer::{self, next_piece};
use super::callers::Caller;
use super::{RpcEdge, count, open};
use crate::figures::RpcFigures;
use crate::handles::RequestHandles;
use crate::problem::Problem;

/// The longest time for a whole search. Each of its steps has `server.request_deadline`.
const SEARCH_MAX: Duration = Duration::from_secs(15 * 60);

/// What a search for logs ends or begins with.
pub(super) enum Found {
    /// The whole answer.
    Whole(Result<Outcome, ChainError>),
    /// Many logs, of which the first are there.
    Parts(Parts),
}

type Search = Pin<Box<dyn Future<Output = Result<Result<Searched, ChainError>, Problem>>>>;

/// The answer to a call, as it is sent.
pub(super) struct Parts {
    /// What is sent next.
    pieces: VecDeque<Bytes>,
    found: mpsc::Receiver<Bytes>,
    /// What is left of the search after its last part. `None` after its end.
    search: Option<Search>,
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
) -> Result<Found, Problem> {
    let places = edge.enter(caller, 1)?;
    // The next part is fetched while one is sent.
    let (parts, mut found) = mpsc::channel(1);
    let message = SearchLogs {
        call,
        parts,
        within: handles.left(),
    };
    let (handles, chain) = (handles.clone(), chain.clone());
    let mut search: Search = Box::pin(async move {
        let _places = places;
        let thread = handles.thread.clone();
        let work = async move {
            let _lease = open(&handles, &chain).await?;
            Ok::<_, Problem>(chain.handle.ask(message, SEARCH_MAX).await?)
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
    let search: Search = match ended {
        Some(ended) => Box::pin(async { ended }),
        None => search,
    };
    match first {
        Some(first) => Ok(Found::Parts(Parts {
            pieces: VecDeque::from([first]),
            found,
            search: Some(search),
        })),
        None => Ok(Found::Whole(match search.await? {
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
        let before = [
            Bytes::from_static(br#"{"jsonrpc":"2.0","id":"#),
            id,
            Bytes::from_static(br#","result":["#),
        ];
        before
            .into_iter()
            .rev()
            .for_each(|piece| self.pieces.push_front(piece));
        let pieces = stream::unfold((self, figures), |(mut parts, figures)| async move {
            let piece = parts.next(figures.as_ref()).await?;
            Some((piece, (parts, figures)))
        });
        let mut response = HttpResponse::Ok();
        response.content_type(ContentType::json());
        response.streaming(pieces)
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
            let (outcome, reason) = match self.search.take()?.await {
                Ok(Ok(Searched::Streamed)) => {
                    count(figures, Some("eth_getLogs"), "result");
                    return Some(Ok(Bytes::from_static(b"]}")));
                }
                Ok(Ok(Searched::Whole(_))) => ("error", "a provider refuses the rest".to_owned()),
                Ok(Err(error)) => (answer::kind(&error), error.to_string()),
                Err(problem) => ("refused", problem.detail.to_string()),
            };
            count(figures, Some("eth_getLogs"), outcome);
            let broken = Broken(reason);
            tracing::warn!(%broken, "a response was cut");
            return Some(Err(broken));
        }
    }
}
