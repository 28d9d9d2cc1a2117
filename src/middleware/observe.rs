//! Gives every request an id, a span, a final deadline, counters and exactly one log event.
//!
//! Errors of requests are logged here and nowhere else, with the cause that the response does not show.
//! A successful request is logged at debug level: `log.filter = "info,headroom::access=debug"` shows it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderValue;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, ResponseError, web};
use headroom_actors::kernel::shortened;
use tokio::time::timeout;
use tracing::Instrument;

use super::hosts::Hosts;
use super::request_id::request_id;
use super::{cross_site, expectation, upgrade};
use crate::connection::Drain;
use crate::figures::http::HttpCounter;
use crate::problem::{Problem, ProblemKind, REQUEST_ID, problem_of};
use crate::route_class::{MatchedRoute, PROTOCOL, RouteClass};

/// The longest name of a model that is logged, in bytes. A client can name any.
const MODEL_MAX: usize = 256;

/// The target of request events in log filters.
const ACCESS: &str = "headroom::access";

/// The route with which balancers see that the server stops. They ask again and again, so its refusal is no warning.
const READY: &str = "/v2/health/ready";

/// How long after `server.request_deadline` a request is aborted. Handlers keep the deadline themselves
/// and name what they waited for; this is for handlers that fail to.
const GRACE: Duration = Duration::from_millis(500);

/// What applies to the requests of one worker thread, and where they are counted. Each thread has its
/// own, so that threads do not wait for each other's cache lines.
pub struct Observer {
    cut_off_after: Duration,
    hosts: Hosts,
    counter: Arc<HttpCounter>,
    drain: Drain,
}

impl Observer {
    /// Observes the requests of one thread. `deadline` is `server.request_deadline`. `drain` ends their connections.
    pub fn new(deadline: Duration, hosts: Hosts, counter: Arc<HttpCounter>, drain: Drain) -> Self {
        Self {
            cut_off_after: deadline + GRACE,
            hosts,
            counter,
            drain,
        }
    }
}

/// A request in progress. Its drop updates the counters, however the request ends.
struct Watch {
    observer: web::Data<Observer>,
    id: HeaderValue,
    method: Method,
    /// The client, or the proxy in front.
    peer: Option<SocketAddr>,
    matched: MatchedRoute,
    began: Instant,
    ended: bool,
}

/// Handles a request, and observes it from start to end.
///
/// # Errors
/// A [`Problem`] if the request was aborted or failed outside of its handler.
pub async fn observe<B: MessageBody>(
    observer: web::Data<Observer>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let id = request_id(request.headers().get(REQUEST_ID));
    // At debug level, because a span that is enabled costs an eighth of a small request. What logs at other
    // levels names the request itself, or runs in a job.
    let span = tracing::debug_span!("request", request_id = id.to_str().unwrap_or_default());
    let cut_off_after = observer.cut_off_after;
    let of_another_host = observer.hosts.refusal(request.uri(), request.headers());
    let of_another_site = || cross_site::refusal_of_change(request.method(), request.headers());
    let unknown = || expectation::refusal(request.head());
    let no_handshake = || upgrade::refusal(request.head());
    let refusal = of_another_host.or_else(of_another_site);
    let refusal = refusal.or_else(unknown).or_else(no_handshake);
    let watch = Watch::begin(observer, id, &request);

    if let Some(refusal) = refusal {
        let refusal = match request.path().starts_with(PROTOCOL) {
            true => refusal.in_protocol_form(),
            false => refusal,
        };
        return Err(watch.fail(None, refusal).into());
    }
    let mut call = pin!(next.call(request).instrument(span));
    let mut outcome = timeout(cut_off_after, &mut call).await;
    if outcome.is_err() && watch.matched.class() == Some(RouteClass::Transfer) {
        outcome = Ok(call.await);
    }
    match outcome {
        Ok(Ok(response)) => Ok(watch.respond(response)),
        Ok(Err(error)) => Err(watch.fail(None, problem_of(&error)).into()),
        Err(_) => {
            let detail = "the request took longer than it may; it has been given up";
            let problem = Problem::new(ProblemKind::DeadlineExceeded, detail);
            Err(watch.fail(None, problem).into())
        }
    }
}

impl Watch {
    fn begin(observer: web::Data<Observer>, id: HeaderValue, request: &ServiceRequest) -> Self {
        observer.counter.begin();
        Self {
            observer,
            id,
            method: request.method().clone(),
            peer: request.peer_addr(),
            matched: MatchedRoute::of(request),
            began: Instant::now(),
            ended: false,
        }
    }

    fn respond<B: MessageBody>(
        mut self,
        response: ServiceResponse<B>,
    ) -> ServiceResponse<EitherBody<B>> {
        // A problem is rebuilt with the request's id. Errors of the framework become problems.
        let Some(problem) = response.response().error().map(problem_of) else {
            self.log(response.status(), Some(response.request()), None);
            let mut response = response.map_into_left_body();
            response.headers_mut().insert(REQUEST_ID, self.id.clone());
            return response;
        };
        let problem = self.fail(Some(response.request()), problem);
        let problem = problem.error_response();
        let (request, _) = response.into_parts();
        ServiceResponse::new(request, problem).map_into_right_body()
    }

    fn fail(mut self, request: Option<&HttpRequest>, problem: Problem) -> Problem {
        self.log(problem.status_code(), request, Some(&problem));
        problem.in_request(self.id.clone())
    }

    /// Counts and logs the response to `request`, which is `None` if it has reached no route.
    fn log(
        &mut self,
        status: StatusCode,
        request: Option<&HttpRequest>,
        problem: Option<&Problem>,
    ) {
        self.ended = true;
        let took = self.began.elapsed();
        self.observer
            .counter
            .answered(self.matched.class(), status, took);
        let model = || request.and_then(|request| request.match_info().get("model"));
        let model = || model().map(|name| shortened(name.to_owned(), MODEL_MAX));
        /// Logs the same fields at different levels: a level is fixed per call site.
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: ACCESS,
                    tracing::Level::$level,
                    request_id = self.id.to_str().unwrap_or_default(),
                    method = self.method.as_str(),
                    path = self.matched.path().unwrap_or("unmatched"),
                    model = model().as_deref(),
                    peer = self.peer.map(tracing::field::display),
                    status = status.as_u16(),
                    duration_ms = took.as_secs_f64() * 1e3,
                    problem = problem.map(|problem| problem.kind.slug()),
                    detail = problem.map(|problem| &*problem.detail),
                    cause = problem.and_then(|problem| problem.cause.as_deref()),
                    "request answered"
                )
            };
        }
        let is_not_ready = problem.is_some_and(|problem| problem.kind == ProblemKind::NotReady);
        let is_expected = is_not_ready && self.matched.path() == Some(READY);
        match status.as_u16() {
            500 => event!(ERROR),
            501.. if !is_expected => event!(WARN),
            400.. => event!(INFO),
            _ => event!(DEBUG),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.observer.counter.abandoned(self.matched.class());
        /// Logs the same fields at different levels: a level is fixed per call site.
        macro_rules! event {
            ($level:ident, $message:tt) => {
                tracing::event!(
                    target: ACCESS,
                    tracing::Level::$level,
                    request_id = self.id.to_str().unwrap_or_default(),
                    method = self.method.as_str(),
                    path = self.matched.path().unwrap_or("unmatched"),
                    peer = self.peer.map(tracing::field::display),
                    duration_ms = self.began.elapsed().as_secs_f64() * 1e3,
                    $message
                )
            };
        }
        match self.observer.drain.names_cut_off() {
            true => event!(WARN, "request cut off: the server stops"),
            false => event!(DEBUG, "request abandoned by its client"),
        }
    }
}
