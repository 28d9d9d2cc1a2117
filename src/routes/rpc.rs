//! `POST /rpc/{chain}`: calls of JSON-RPC 2.0 to a chain.
//!
//! Steps of a request: find the chain, read the body within its bounds (`rpc/request.rs`), take places for its calls
//! (`rpc/callers.rs`), open the chain and ask its owner, and write the answers (`rpc/answer.rs`). Parameters and results
//! pass through as the bytes that they are.
//!
//! What concerns single calls is an error of JSON-RPC with the status 200, as nodes answer it; what concerns the whole
//! request (an unknown chain, too many bytes, no memory, no time) is a problem. `rpc/socket.rs` has the WebSocket.

mod answer;
mod callers;
mod logs;
pub(crate) mod request;
pub(super) mod socket;
mod subscriptions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use headroom_actors::chain::rpc::{Call, Outcome};
use headroom_actors::chain::{ChainEntry, ChainError, Chains, Serve};
use headroom_actors::lazy::{Acquire, Lease};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::body::{BodyBudget, read_body_up_to};
use crate::figures::RpcFigures;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use answer::{Answer, respond};
use callers::{Caller, Callers, Places};
use logs::LogsAnswer;
use request::{Member, Request, read};

/// How long a request waits for a chain whose owner is being restarted.
const RESTART_WITHIN: Duration = Duration::from_secs(2);

/// After this time a client that has too many calls, or too many connections, may try again.
const FULL_FOR: Duration = Duration::from_secs(1);
const SOCKETS_FULL_FOR: Duration = Duration::from_secs(5);

/// The media types of JSON-RPC that nodes take. Some clients send `text/plain`, or none.
const MEDIA_TYPES: [&str; 4] = [
    "application/json",
    "application/json-rpc",
    "application/jsonrequest",
    "text/plain",
];

/// What bounds requests to chains, and where they are counted.
pub struct RpcEdge {
    request_max: u64,
    batch_max: usize,
    /// Places for the calls of each client.
    callers: Callers,
    /// Places for its WebSocket connections.
    socket_callers: Callers,
    /// Places for the WebSocket connections of all clients.
    sockets: Arc<Semaphore>,
    /// By the name of the chain.
    figures: BTreeMap<String, RpcFigures>,
    /// Ends the WebSocket connections.
    stop: CancellationToken,
}

impl RpcEdge {
    /// At most `request_max` bytes and `batch_max` calls per request. One client has at most `client_calls_max` calls and
    /// `client_websockets_max` WebSocket connections at once.
    pub fn new(
        request_max: u64,
        batch_max: usize,
        client_calls_max: usize,
        client_websockets_max: usize,
        figures: BTreeMap<String, RpcFigures>,
    ) -> Self {
        Self {
            request_max,
            batch_max,
            callers: Callers::new(client_calls_max),
            socket_callers: Callers::new(client_websockets_max),
            sockets: Arc::new(Semaphore::new(socket::SOCKETS_MAX)),
            figures,
            stop: CancellationToken::new(),
        }
    }

    /// Ends the WebSocket connections, each when its calls are answered: the server stops.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Takes places for the calls of a request.
    fn enter(&self, caller: Caller, calls: usize) -> Result<Places, Problem> {
        self.callers.enter(caller, calls).ok_or_else(|| {
            let max = self.callers.places_max();
            let detail = format!(
                "this client has too many calls at once: at most {max} are allowed; wait for some to end"
            );
            Problem::new(ProblemKind::TooManyRequests, detail).retry_after(FULL_FOR)
        })
    }

    /// Takes a place for a WebSocket connection.
    fn enter_socket(&self, caller: Caller) -> Result<SocketPlace, SocketsFull> {
        let max = self.socket_callers.places_max();
        let of_client = self.socket_callers.enter(caller, 1);
        let of_client = of_client.ok_or(SocketsFull::OfClient { max })?;
        let of_all = Arc::clone(&self.sockets).try_acquire_owned();
        Ok(SocketPlace {
            _of_client: of_client,
            _of_all: of_all.map_err(|_| SocketsFull::OfAll)?,
        })
    }
}

/// The place of a WebSocket connection, until it is dropped.
struct SocketPlace {
    _of_client: Places,
    _of_all: OwnedSemaphorePermit,
}

/// Why there is no place for a WebSocket connection.
#[derive(Debug, thiserror::Error)]
enum SocketsFull {
    #[error(
        "this client has {max} WebSocket connections, which is the most; close one, or subscribe over one that is open"
    )]
    OfClient { max: usize },
    #[error(
        "there are {} WebSocket connections, which is the most; try again later",
        socket::SOCKETS_MAX
    )]
    OfAll,
}

impl SocketsFull {
    /// How it is counted.
    fn reason(&self) -> &'static str {
        match self {
            Self::OfClient { .. } => "client",
            Self::OfAll => "server",
        }
    }
}

impl From<SocketsFull> for Problem {
    fn from(full: SocketsFull) -> Self {
        Self::new(ProblemKind::TooManyRequests, full.to_string()).retry_after(SOCKETS_FULL_FOR)
    }
}

/// A call, or a list of calls.
#[derive(Deserialize, ToSchema)]
#[schema(as = RpcRequest)]
#[serde(untagged)]
#[allow(dead_code, reason = "it is only a schema")]
pub(super) enum RequestBody {
    /// One call.
    Single(CallBody),
    /// A batch. It is answered in this order, without its notifications.
    Batch(Vec<CallBody>),
}

/// One call.
#[derive(Deserialize, ToSchema)]
#[schema(as = RpcCall)]
#[allow(dead_code, reason = "it is only a schema")]
pub(super) struct CallBody {
    /// Always `2.0`.
    jsonrpc: String,
    /// A text, a number or null, which the answer repeats. Without it the call is a notification, which gets no answer.
    #[serde(default)]
    id: Value,
    /// The method, such as `eth_call`.
    method: String,
    /// A list or an object.
    #[serde(default)]
    params: Value,
}

/// An answer, or a list of answers.
#[derive(Serialize, ToSchema)]
#[schema(as = RpcResponse)]
#[serde(untagged)]
#[allow(dead_code, reason = "it is only a schema")]
enum ResponseBody {
    /// The answer to one call.
    Single(AnswerBody),
    /// The answers to a batch.
    Batch(Vec<AnswerBody>),
}

/// The answer to one call: its `result`, or its `error`.
#[derive(Serialize, ToSchema)]
#[schema(as = RpcAnswer)]
struct AnswerBody {
    /// Always `2.0`.
    jsonrpc: String,
    /// That of the call.
    id: Value,
    /// What the method returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

/// Why a call has no result.
#[derive(Serialize, ToSchema)]
#[schema(as = RpcError)]
struct ErrorBody {
    /// The code of JSON-RPC or of the node.
    code: i64,
    /// What is wrong.
    message: String,
    /// More about it. Of the gateway's own errors: `type`, and perhaps `retry_after_seconds` and `providers`, which says
    /// why each of them is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

pub(super) fn call_docs() -> Docs {
    Docs::new("Call methods of a chain, which is opened first if needed")
        .text(
            "JSON-RPC 2.0, single and batch, as nodes of Ethereum speak it. Errors of single calls are answers with the \
             status 200. The media type may be `application/json` or `text/plain`, or left out.",
        )
        .variable("chain", "The name, an alias or the id of a chain.", "ethereum")
        .body::<RequestBody>(json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_getBalance",
            "params": ["0x0000000000000000000000000000000000000000", "latest"],
        }))
        .answer::<ResponseBody>(200, "The answers.")
        .example(json!({ "jsonrpc": "2.0", "id": 1, "result": "0x7" }))
        .empty_answer(204, "All calls were notifications.")
        .calls_actors()
        .problems(&[
            ProblemKind::TooManyRequests,
            ProblemKind::NeverFits,
            ProblemKind::MemoryExceeded,
            ProblemKind::NotReady,
        ])
}

pub(super) async fn call(
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    edge: web::Data<RpcEdge>,
    handles: RequestHandles,
) -> Result<HttpResponse, Problem> {
    let chain = find(&handles.chains, &name)?;
    let figures = edge.figures.get(&chain.config.name);
    check_media_type(&request)?;
    let body = read_body_up_to(edge.request_max, &request, payload, &bodies).await?;
    let began = Instant::now();
    let (members, is_batch) = match read(&body.into_bytes(), edge.batch_max) {
        Ok(Request::Single(member)) => (vec![member], false),
        Ok(Request::Batch(members)) => (members, true),
        Err(fault) => {
            count(figures, None, "malformed");
            let answer = (Bytes::from_static(b"null"), fault.into());
            return respond(vec![answer], false, &handles.answer_text).await;
        }
    };
    if is_batch && let Some(figures) = figures {
        figures.batch(members.len());
    }
    let caller = Caller::of(&request);
    let outcomes = match search_of(&members, is_batch) {
        Some((id, search)) => match logs::search(&edge, &handles, chain, caller, search).await {
            Ok(LogsAnswer::Whole(outcome)) => Ok(vec![outcome]),
            Ok(LogsAnswer::Parts(parts)) => {
                if let Some(figures) = figures {
                    figures.answered(began.elapsed());
                }
                return Ok(parts.respond(id, figures.cloned()));
            }
            Err(problem) => Err(problem),
        },
        None => serve_calls(&edge, &handles, chain, caller, &members).await,
    };
    let outcomes = outcomes.inspect_err(|problem| {
        let outcome = outcome_of(problem);
        for call in calls_of(&members) {
            count(figures, Some(&call.method), outcome);
        }
    })?;
    let answers = answers(members, outcomes, figures);
    if let Some(figures) = figures {
        figures.answered(began.elapsed());
    }
    if answers.is_empty() {
        return Ok(HttpResponse::NoContent().finish());
    }
    respond(answers, is_batch, &handles.answer_text).await
}

/// A search for logs whose answer may be sent in parts, with its id.
fn search_of(members: &[Member], is_batch: bool) -> Option<(Bytes, Arc<Call>)> {
    match members {
        [
            Member {
                id: Some(id),
                call: Ok(call),
            },
        ] if !is_batch && &*call.method == "eth_getLogs" => Some((id.clone(), Arc::clone(call))),
        _ => None,
    }
}

/// The chain with this name, alias or id.
pub(super) fn find<'a>(chains: &'a Chains, name: &str) -> Result<&'a ChainEntry, Problem> {
    chains.find(name).ok_or_else(|| {
        let names: Vec<_> = chains.iter().map(|it| it.config.name.as_str()).collect();
        let detail = match names.is_empty() {
            true => "no chain is served; an operator must name a provider of one in the settings",
            false => "there is no such chain; GET /api/chains lists those that are served",
        };
        Problem::new(ProblemKind::NotFound, detail).with("chains", names)
    })
}

/// The members that are calls.
fn calls_of(members: &[Member]) -> impl Iterator<Item = &Arc<Call>> {
    members
        .iter()
        .filter_map(|member| member.call.as_ref().ok())
}

/// What became of the calls, in their order.
type Outcomes = Vec<Result<Outcome, ChainError>>;

async fn serve_calls(
    edge: &RpcEdge,
    handles: &RequestHandles,
    chain: &ChainEntry,
    caller: Caller,
    members: &[Member],
) -> Result<Outcomes, Problem> {
    let serve = Serve {
        calls: calls_of(members).cloned().collect(),
        caller: caller.name(),
    };
    if serve.calls.is_empty() {
        return Ok(Vec::new());
    }
    let _places = edge.enter(caller, serve.calls.len())?;
    let work = ask(handles.clone(), chain.clone(), serve);
    handles.thread.run(work).await?
}

/// Opens the chain, and keeps it open until it has answered.
async fn ask(
    handles: RequestHandles,
    chain: ChainEntry,
    serve: Serve,
) -> Result<Outcomes, Problem> {
    let _lease = open(&handles, &chain).await?;
    Ok(chain.handle.ask(serve, handles.left()).await?)
}

/// Opens the chain, which stays open as long as the lease.
async fn open(handles: &RequestHandles, chain: &ChainEntry) -> Result<Lease, Problem> {
    let name = chain.resource.to_string();
    let lease = handles.loader.ask(Acquire { name }, handles.left());
    let lease = lease.await??;
    if !chain.handle.is_up() {
        let within = RESTART_WITHIN.min(handles.left());
        chain.handle.running(within).await;
    }
    Ok(lease)
}

/// The answers to all members but notifications. `outcomes` has what became of those that are calls.
fn answers(
    members: Vec<Member>,
    outcomes: Outcomes,
    figures: Option<&RpcFigures>,
) -> Vec<(Bytes, Answer)> {
    let mut outcomes = outcomes.into_iter();
    let mut answers = Vec::with_capacity(members.len());
    for Member { id, call } in members {
        let (method, outcome, answer) = match &call {
            Err(fault) => (None, "malformed", fault.clone().into()),
            Ok(call) => {
                // The owner answers each call.
                let outcome = outcomes.next().unwrap_or(Err(ChainError::Panicked));
                let (word, answer) = match outcome {
                    Ok(outcome @ Outcome::Result(_)) => ("result", outcome.into()),
                    Ok(outcome @ Outcome::Error(_)) => ("error", outcome.into()),
                    Err(error) => (answer::kind(&error), error.into()),
                };
                (Some(&*call.method), word, answer)
            }
        };
        count(figures, method, outcome);
        answers.extend(id.map(|id| (id, answer)));
    }
    answers
}

/// What has become of the calls of a request that is answered with a problem.
fn outcome_of(problem: &Problem) -> &'static str {
    match problem.kind {
        ProblemKind::DeadlineExceeded => "deadline",
        _ => "refused",
    }
}

fn count(figures: Option<&RpcFigures>, method: Option<&str>, outcome: &'static str) {
    if let Some(figures) = figures {
        figures.count(method, outcome);
    }
}

fn check_media_type(request: &HttpRequest) -> Result<(), Problem> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().unwrap_or("?");
    let essence = value.split(';').next().unwrap_or_default().trim();
    let mut known = MEDIA_TYPES.iter();
    if essence.is_empty() || known.any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    let detail = "the body must be JSON: send it with the content type application/json";
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_client_with_too_many_calls_is_told_when_to_try_again() {
        let edge = RpcEdge::new(1, 2, 3, 1, BTreeMap::new());
        let caller = || Caller::of(&TestRequest::default().to_http_request());
        let _first = edge.enter(caller(), 2).unwrap();
        let response = edge.enter(caller(), 2).unwrap_err().error_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "1");
        edge.enter(caller(), 1).unwrap();
        // Connections have places of their own.
        let _connection = edge.enter_socket(caller()).ok().unwrap();
        let full = edge.enter_socket(caller()).err().unwrap();
        assert_eq!(full.reason(), "client");
        let response = Problem::from(full).error_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "5");
    }

    #[test]
    fn each_call_has_the_outcome_of_its_place_and_one_without_has_an_error() {
        let body = Bytes::from_static(
            br#"[{"jsonrpc":"2.0","id":1,"method":"a"},7,{"jsonrpc":"2.0","method":"b"},
                 {"jsonrpc":"2.0","id":3,"method":"c"},{"jsonrpc":"2.0","id":4,"method":"d"}]"#,
        );
        let Ok(Request::Batch(members)) = read(&body, 9) else {
            panic!("no batch")
        };
        let result = |text: &'static str| Ok(Outcome::Result(Bytes::from_static(text.as_bytes())));
        let outcomes = vec![result("\"a\""), result("\"b\""), result("\"c\"")];
        let answers = answers(members, outcomes, None);
        let texts = answers.iter().map(|(id, answer)| {
            let (Answer::Result(text) | Answer::Error(text)) = answer;
            let text = str::from_utf8(text).unwrap();
            (str::from_utf8(id).unwrap(), text)
        });
        let texts: Vec<_> = texts.collect();
        assert_eq!((texts[0], texts[2]), (("1", "\"a\""), ("3", "\"c\"")));
        assert!(texts[1].0 == "null" && texts[1].1.contains("-32600"));
        assert!(texts[3].0 == "4" && texts[3].1.contains("panicked"));
        assert_eq!(texts.len(), 4);
    }
}
