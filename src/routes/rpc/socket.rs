//! `GET /rpc/{chain}` as a WebSocket: calls, and subscriptions to what happens on the chain.
//!
//! A connection has one task. It reads a message when there is a place for its calls, so a client that sends without
//! reading waits in its own kernel. Nothing that waits for the chain holds up the other messages. Notifications wait in a bounded queue; a client that misses
//! some is told so by the close code 1013, since it would otherwise not know. When the server stops, the close code is 1001.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Closed, Session,
};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use headroom_actors::chain::{
    ChainEntry, LogsFilter, Notification, Subscribe, SubscribeError, SubscriptionId, Topic,
    Unsubscribe,
};
use headroom_actors::kernel::{
    BufferReservation, Buffers, EventBounds, EventReader, EventSender, Queued, event_queue,
};
use headroom_actors::lazy::{Acquire, Lease};
use serde_json::value::RawValue;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::answer::{self, Answer};
use super::callers::Caller;
use super::request::{
    Fault, INVALID_PARAMS, LIMIT_EXCEEDED, Member, NO_METHOD, Request, UNAVAILABLE, read,
};
use super::subscriptions::{SUBSCRIPTIONS_MAX, Subscriptions};
use super::{RpcEdge, SocketPlace, answers, count, find, serve_calls};
use crate::figures::RpcFigures;
use crate::figures::rpc::OpenSocket;
use crate::handles::RequestHandles;
use crate::middleware::cross_site;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, malformed, no_memory};

/// Connections at once.
pub(super) const SOCKETS_MAX: usize = 4096;
/// The largest message of a client.
const MESSAGE_MAX: usize = 1024 * 1024;
/// Messages of one client that are answered at once.
const MESSAGES_AT_ONCE: usize = 32;
/// The same, of calls that begin or end a subscription. All that one client can have wait for a slow chain are fewer.
const CHANGES_AT_ONCE: usize = 2 * SUBSCRIPTIONS_MAX;
/// Notifications that wait for a client.
const WAITING: EventBounds = EventBounds {
    events: 8192,
    bytes: 8 * 1024 * 1024,
};
/// What a connection reserves: its buffers, and some notifications.
const CONNECTION_BYTES: u64 = 64 * 1024;
/// A message of no more than this is covered by that.
const UNRESERVED_BYTES: usize = 2 * 1024;
/// The time between two pings, and how many a client may leave unanswered.
const PING_EVERY: Duration = Duration::from_secs(20);
const PINGS_MAX: u32 = 3;

pub(in crate::routes) fn open_docs() -> Docs {
    Docs::new("Call methods of a chain and subscribe to it, over a WebSocket")
        .text(
            "Messages are those of `POST /rpc/{chain}`. `eth_subscribe` knows `newHeads`, `logs` and \
             `newPendingTransactions`. A client that misses notifications is disconnected with the code 1013. \
             When the server stops, every client is, with the code 1001.",
        )
        .variable("chain", "The name, an alias or the id of a chain.", "ethereum")
        .empty_answer(101, "The connection is a WebSocket from here on.")
        .calls_actors()
        .problems(&[
            ProblemKind::MalformedRequest,
            ProblemKind::Forbidden,
            ProblemKind::TooManyRequests,
            ProblemKind::MemoryExceeded,
            ProblemKind::NotReady,
        ])
}

/// A client's connection.
struct Socket {
    session: Session,
    messages: AggregatedMessageStream,
    edge: web::Data<RpcEdge>,
    handles: RequestHandles,
    chain: ChainEntry,
    caller: Caller,
    subscriptions: Subscriptions,
    sender: Arc<EventSender<Notification>>,
    notifications: EventReader<Notification>,
    /// Pings since the last message.
    unanswered: u32,
    // The chain stays open as long as the connection.
    _lease: Lease,
    _place: SocketPlace,
    _counted: Option<OpenSocket>,
    _memory: BufferReservation,
}

pub(in crate::routes) async fn open(
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
    edge: web::Data<RpcEdge>,
    handles: RequestHandles,
) -> Result<HttpResponse, Problem> {
    let chain = find(&handles.chains, &name)?.clone();
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(malformed("send calls by POST, or open a WebSocket here"));
    }
    // A page of another origin could read all answers.
    if let Some(refusal) = cross_site::refusal(request.headers()) {
        return Err(refusal);
    }
    let figures = edge.figures.get(&chain.config.name);
    let refused = |reason| {
        if let Some(figures) = figures {
            figures.refused_socket(reason);
        }
    };
    let caller = Caller::of(&request);
    let place = edge.enter_socket(caller);
    let place = place.inspect_err(|full| refused(full.reason()))?;
    let account: &dyn Buffers = &handles.answer_text;
    let memory = account.reserve_after_reading(CONNECTION_BYTES).await;
    let memory = memory.inspect_err(|_| refused("memory"));
    let mut memory = memory.map_err(|error| no_memory("this connection", error))?;
    memory.fill(CONNECTION_BYTES);
    let name = chain.resource.to_string();
    let lease = handles.loader.ask(Acquire { name }, handles.left());
    let lease = lease.await??;
    let opened = actix_ws::handle(&request, payload);
    let (response, session, messages) = opened
        .map_err(|error| malformed(format!("this is no handshake of a WebSocket: {error}")))?;
    let messages = messages.max_frame_size(MESSAGE_MAX);
    let messages = messages
        .aggregate_continuations()
        .max_continuation_size(MESSAGE_MAX);
    let (sender, notifications) = event_queue(WAITING);
    let counted = figures.map(RpcFigures::open_socket);
    let socket = Socket {
        session,
        messages,
        edge,
        handles,
        chain,
        caller,
        subscriptions: Subscriptions::default(),
        sender: Arc::new(sender),
        notifications,
        unanswered: 0,
        _lease: lease,
        _place: place,
        _counted: counted,
        _memory: memory,
    };
    actix_web::rt::spawn(socket.run());
    Ok(response)
}

/// How a connection ends.
enum End {
    /// The client has gone.
    Gone,
    /// The server closes it.
    Close(CloseCode, &'static str),
}

/// A client that got no answer would wait for ever.
fn no_memory_for_answer() -> End {
    End::Close(CloseCode::Again, "there is no memory for an answer")
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Gone
    }
}

/// What a message asks for.
enum Work {
    /// Calls.
    Calls(Calls),
    /// A subscription begins or ends.
    Change(LocalBoxFuture<'static, (Option<Bytes>, Arc<str>, Change)>),
}

/// What has become of a call that begins or ends a subscription.
struct Change {
    answer: Answer,
    /// Whether it holds a place for a subscription.
    holds_place: bool,
    /// The subscription that has begun.
    begun: Option<SubscriptionId>,
}

impl Change {
    /// No subscription has begun, and none would have had a place.
    fn without_place(answer: impl Into<Answer>) -> Self {
        Self {
            answer: answer.into(),
            holds_place: false,
            begun: None,
        }
    }
}

impl Socket {
    async fn run(mut self) {
        let Err(end) = self.serve().await;
        if let End::Close(code, reason) = end {
            let reason = CloseReason::from((code, reason));
            // The client may have gone meanwhile.
            self.session.clone().close(Some(reason)).await.ok();
        }
        let within = self.handles.renewed().left();
        let ids = self.subscriptions.take().into_iter();
        // If this fails, the subscriptions end with their queue.
        join_all(ids.map(|id| self.chain.handle.ask(Unsubscribe { id }, within))).await;
    }

    async fn serve(&mut self) -> Result<Infallible, End> {
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.tick().await;
        let mut answering = FuturesUnordered::new();
        let mut changing = FuturesUnordered::new();
        loop {
            let stops = self.edge.stop.is_cancelled();
            if stops && answering.is_empty() && changing.is_empty() {
                return Err(End::Close(CloseCode::Away, "the server stops"));
            }
            let has_places = answering.len() < MESSAGES_AT_ONCE && changing.len() < CHANGES_AT_ONCE;
            tokio::select! {
                message = self.messages.recv(), if has_places && !stops => {
                    self.unanswered = 0;
                    let work = match message {
                        Some(Ok(AggregatedMessage::Text(text))) => self.take(text.into_bytes()).await?,
                        Some(Ok(AggregatedMessage::Binary(bytes))) => self.take(bytes).await?,
                        Some(Ok(AggregatedMessage::Ping(bytes))) => {
                            self.session.pong(&bytes).await?;
                            None
                        }
                        Some(Ok(AggregatedMessage::Pong(_))) => None,
                        Some(Ok(AggregatedMessage::Close(_))) => {
                            return Err(End::Close(CloseCode::Normal, ""));
                        }
                        Some(Err(_)) => {
                            let reason = "a message is too large or malformed";
                            return Err(End::Close(CloseCode::Size, reason));
                        }
                        None => return Err(End::Gone),
                    };
                    match work {
                        Some(Work::Calls(calls)) => answering.push(calls.answer()),
                        Some(Work::Change(change)) => changing.push(change),
                        None => {}
                    }
                }
                Some(answer) = answering.next() => {
                    if let Some(text) = answer? {
                        self.session.text(text).await?;
                    }
                }
                Some((id, method, change)) = changing.next() => {
                    self.changed(id, &method, change).await?;
                }
                notification = self.notifications.next(), if self.subscriptions.takes_notifications() => {
                    match notification {
                        Some(Queued::Event(notification)) => self.notify(notification).await?,
                        Some(Queued::Gap) => {
                            let reason = "notifications were missed: not read in time, or too many at once";
                            return Err(End::Close(CloseCode::Again, reason));
                        }
                        // It is held here.
                        None => return Err(End::Gone),
                    }
                }
                () = self.edge.stop.cancelled(), if !stops => {}
                _ = pings.tick() => {
                    // No answer to a ping is read any more.
                    if !stops {
                        self.unanswered += 1;
                    }
                    if self.unanswered > PINGS_MAX {
                        return Err(End::Gone);
                    }
                    self.session.ping(b"").await?;
                }
            }
        }
    }

    /// Takes a message. Returns what is to be done beside the other messages.
    async fn take(&mut self, text: Bytes) -> Result<Option<Work>, End> {
        let mut memory = None;
        if text.len() > UNRESERVED_BYTES {
            let account: &dyn Buffers = &self.handles.answer_text;
            let reserved = account.reserve_after_reading(text.len() as u64).await;
            let mut reserved = reserved.map_err(|_| no_memory_for_answer())?;
            reserved.fill(text.len() as u64);
            memory = Some(reserved);
        }
        let edge = self.edge.clone();
        let figures = edge.figures.get(&self.chain.config.name);
        let (members, is_batch) = match read(&text, self.edge.batch_max) {
            Ok(Request::Single(member)) => (vec![member], false),
            Ok(Request::Batch(members)) => (members, true),
            Err(fault) => {
                count(figures, None, "malformed");
                let answer = vec![(Bytes::from_static(b"null"), fault.into())];
                self.send(answer, false).await?;
                return Ok(None);
            }
        };
        if let [Member { id, call: Ok(call) }] = &*members
            && !is_batch
            && matches!(&*call.method, "eth_subscribe" | "eth_unsubscribe")
        {
            let change = match &*call.method {
                "eth_subscribe" => self.subscribe(&call.params).boxed_local(),
                _ => self.unsubscribe(&call.params).boxed_local(),
            };
            let (id, method) = (id.clone(), Arc::clone(&call.method));
            let change = change.map(move |change| {
                drop(memory);
                (id, method, change)
            });
            return Ok(Some(Work::Change(change.boxed_local())));
        }
        Ok(Some(Work::Calls(Calls {
            _memory: memory,
            members,
            is_batch,
            edge: self.edge.clone(),
            handles: self.handles.renewed(),
            chain: self.chain.clone(),
            caller: self.caller,
        })))
    }

    async fn send(&mut self, answers: Vec<(Bytes, Answer)>, is_batch: bool) -> Result<(), End> {
        let text = answer::text(answers, is_batch, &self.handles.answer_text).await;
        match text {
            Ok(text) => Ok(self.session.text(text).await?),
            Err(_) => Err(no_memory_for_answer()),
        }
    }

    /// Begins a subscription, for which there is a place from now on.
    fn subscribe(&mut self, params: &[u8]) -> impl Future<Output = Change> + use<> {
        let topic = topic(params).and_then(|topic| match self.subscriptions.begin() {
            true => Ok(topic),
            false => {
                let message = format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions");
                Err(Fault::new(INVALID_PARAMS, message))
            }
        });
        let (handle, sender) = (self.chain.handle.clone(), Arc::clone(&self.sender));
        let within = self.handles.renewed().left();
        async move {
            let topic = match topic {
                Ok(topic) => topic,
                Err(fault) => return Change::without_place(fault),
            };
            let begun = match handle.ask(Subscribe { topic, sender }, within).await {
                Ok(Ok(id)) => Ok(id),
                Ok(Err(error @ SubscribeError::Forbidden)) => {
                    Err(Fault::new(NO_METHOD, error.to_string()))
                }
                Ok(Err(error @ (SubscribeError::TooMany | SubscribeError::Memory))) => {
                    Err(Fault::new(LIMIT_EXCEEDED, error.to_string()))
                }
                Ok(Err(error @ SubscribeError::NotTold)) => {
                    Err(Fault::new(UNAVAILABLE, error.to_string()))
                }
                Err(error) => Err(Fault::new(UNAVAILABLE, error.to_string())),
            };
            Change {
                holds_place: true,
                begun: begun.as_ref().ok().copied(),
                answer: begun
                    .map_or_else(Into::into, |id| Answer::Result(format!("\"{id}\"").into())),
            }
        }
    }

    /// Ends a subscription, of which nothing more is sent from now on.
    fn unsubscribe(&mut self, params: &[u8]) -> impl Future<Output = Change> + use<> {
        let id = serde_json::from_slice::<(&str,)>(params).ok();
        let id = id.and_then(|(id,)| id.parse::<SubscriptionId>().ok());
        let id = id.filter(|id| self.subscriptions.end(*id));
        let handle = self.chain.handle.clone();
        let within = self.handles.renewed().left();
        async move {
            let has_ended = match id {
                Some(id) => {
                    let ended = handle.ask(Unsubscribe { id }, within).await;
                    ended.unwrap_or(false)
                }
                None => false,
            };
            Change::without_place(Answer::Result(has_ended.to_string().into()))
        }
    }

    /// Answers a call that has begun or ended a subscription. Notifications of a new one follow.
    async fn changed(
        &mut self,
        id: Option<Bytes>,
        method: &str,
        change: Change,
    ) -> Result<(), End> {
        let outcome = match &change.answer {
            Answer::Result(_) => "result",
            Answer::Error(_) => "error",
        };
        let figures = self.edge.figures.get(&self.chain.config.name);
        count(figures, Some(method), outcome);
        if let Some(id) = id {
            self.send(vec![(id, change.answer)], false).await?;
        }
        if change.holds_place
            && let Some(early) = self.subscriptions.begun(change.begun)
        {
            self.notify(early).await?;
        }
        Ok(())
    }

    async fn notify(&mut self, notification: Notification) -> Result<(), End> {
        if let Some(notification) = self.subscriptions.pass(notification) {
            self.session.text(text_of(&notification)).await?;
        }
        Ok(())
    }
}

/// What a client subscribes to.
fn topic(params: &[u8]) -> Result<Topic, Fault> {
    let invalid = |message: String| Fault::new(INVALID_PARAMS, message);
    let params: Vec<&RawValue> = serde_json::from_slice(params).unwrap_or_default();
    let name = params.first().map(|name| name.get());
    let more = params.get(1).map(|more| more.get());
    let more = more.filter(|more| *more != "null");
    match (name, more) {
        (Some("\"newHeads\""), _) => Ok(Topic::NewHeads),
        (Some("\"logs\""), filter) => {
            let filter = LogsFilter::read(filter.unwrap_or("{}"));
            filter
                .map(Topic::Logs)
                .map_err(|fault| invalid(fault.to_string()))
        }
        (Some("\"newPendingTransactions\""), None | Some("false")) => {
            Ok(Topic::NewPendingTransactions)
        }
        (Some("\"newPendingTransactions\""), Some(_)) => Err(invalid(
            "only the hashes of pending transactions can be subscribed to".into(),
        )),
        _ => Err(invalid(
            "subscribe to newHeads, logs or newPendingTransactions".into(),
        )),
    }
}

/// Calls of one message.
struct Calls {
    _memory: Option<BufferReservation>,
    members: Vec<Member>,
    is_batch: bool,
    edge: web::Data<RpcEdge>,
    handles: RequestHandles,
    chain: ChainEntry,
    caller: Caller,
}

impl Calls {
    /// The text of their answers, if there is one.
    async fn answer(self) -> Result<Option<ByteString>, End> {
        let figures = self.edge.figures.get(&self.chain.config.name);
        if self.is_batch
            && let Some(figures) = figures
        {
            figures.batch(self.members.len());
        }
        let began = Instant::now();
        let (edge, handles) = (&self.edge, &self.handles);
        let outcomes = serve_calls(edge, handles, &self.chain, self.caller, &self.members);
        let answers = match outcomes.await {
            Ok(outcomes) => answers(self.members, outcomes, figures),
            // There is no status of HTTP to say it with.
            Err(problem) => {
                let refused = self.members.into_iter().filter_map(|member| member.id);
                let fault = Fault::new(LIMIT_EXCEEDED, problem.detail);
                refused.map(|id| (id, fault.clone().into())).collect()
            }
        };
        if let Some(figures) = figures {
            figures.answered(began.elapsed());
        }
        if answers.is_empty() {
            return Ok(None);
        }
        let text = answer::text(answers, self.is_batch, &self.handles.answer_text).await;
        text.map(Some).map_err(|_| no_memory_for_answer())
    }
}

fn text_of(notification: &Notification) -> String {
    let Notification {
        subscription,
        result,
    } = notification;
    // Results are JSON, which providers have sent as UTF-8.
    let result = String::from_utf8_lossy(result);
    format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"eth_subscription\",\"params\":\
         {{\"subscription\":\"{subscription}\",\"result\":{result}}}}}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn topics_are_read_as_clients_write_them() {
        for (params, name) in [
            (r#"["newHeads"]"#, "NewHeads"),
            (r#"["newHeads", {}]"#, "NewHeads"),
            (r#"["logs"]"#, "Logs"),
            (r#"["logs", null]"#, "Logs"),
            (r#"["logs", {"topics": []}]"#, "Logs"),
            (r#"["newPendingTransactions"]"#, "NewPending"),
            (r#"["newPendingTransactions", false]"#, "NewPending"),
        ] {
            let topic = format!("{:?}", topic(params.as_bytes()).unwrap());
            assert!(topic.starts_with(name), "{params} {topic}");
        }
        for wrong in [
            "",
            "{}",
            "[]",
            "[1]",
            r#"["syncing"]"#,
            r#"["logs", 1]"#,
            r#"["newPendingTransactions", true]"#,
        ] {
            assert_eq!(topic(wrong.as_bytes()).unwrap_err().code, INVALID_PARAMS);
        }
    }
}
