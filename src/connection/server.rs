//! An HTTP server whose connections enforce our bounds.
//!
//! It does what actix-web's `HttpServer` does, with [`Connection`] in place of the plain socket.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::header;
use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response, StatusCode};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory,
    map_config,
};
use actix_web::Error;
use actix_web::dev::AppConfig;
use tokio::net::TcpStream;

use super::crowd::Crowd;
use super::exchange::Answer;
use super::framing::BodyLength;
use super::places::{Places, places, places_of_thread};
use super::stream::Stream;
use super::{Connection, Drain, Exchange, Limits, Tracked, expectation};

/// The media type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The settings of one HTTP server.
pub(crate) struct ServerSpec {
    /// The prefix of its threads' names.
    pub(crate) name: &'static str,
    /// The number of worker threads.
    pub(crate) workers: usize,
    /// Open connections over all threads. Further connections wait in the listen queue.
    pub(crate) connections_max: usize,
    /// While more connections of a thread are open, the one that has waited longest for a request is closed.
    pub(crate) crowded_above: Option<usize>,
    /// The bounds of each connection.
    pub(crate) limits: Limits,
    /// Ends the connections when the server stops.
    pub(crate) drain: Drain,
}

/// Makes a server that serves `app` on `listener`. It runs when it is polled.
///
/// # Errors
/// The listener cannot be used.
pub(crate) fn server<F, I, S, B>(
    spec: ServerSpec,
    listener: TcpListener,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let address = listener.local_addr()?;
    let places = places(spec.connections_max, spec.workers);
    let places = Arc::new(Places::new(spec.name, places));
    let service = move || {
        let app = app().into_factory().map_err(|error| {
            let error: Error = error.into();
            Response::from(error.error_response())
        });
        let app = map_config(app, |()| AppConfig::default());
        let (expecting, serving) = expectation::services(app);
        let (limits, drain) = (spec.limits.clone(), spec.drain.clone());
        let http = HttpService::build()
            // `Connection` enforces these three. The library's timeouts apply to the first request head and to clients
            // that are within a body, and its clock is up to half a second late.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(Duration::ZERO)
            // `Connection` reports the end of what the client sends when the client counts as gone. Then the handler is
            // dropped.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .on_connect_ext(|stream: &Stream, data| {
                data.insert(stream.exchange());
            })
            .expect(expecting)
            .h1(serving);
        connections(
            http,
            limits,
            drain,
            Arc::clone(&places),
            spec.crowded_above.map(Crowd::new),
        )
    };
    Ok(Server::build()
        .workers(spec.workers)
        .max_concurrent_connections(places_of_thread(spec.connections_max, spec.workers))
        .disable_signals()
        .listen(spec.name, listener, service)?
        .run())
}

/// The service that takes sockets, and has `http` serve each connection.
fn connections<F>(
    http: F,
    limits: Limits,
    drain: Drain,
    places: Arc<Places>,
    crowd: Option<Crowd>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = F::Error>
where
    F: ServiceFactory<(Stream, Option<SocketAddr>), Config = (), Response = ()>,
{
    apply_fn_factory(http, move |socket: TcpStream, http: &F::Service| {
        let peer = socket.peer_addr().ok();
        let connection = Connection::new(socket, &limits, &drain);
        places.on_opened(drain.open());
        let connection = Rc::new(RefCell::new(connection));
        let place = crowd.as_ref().map(|crowd| crowd.enter(&connection));
        let serving = http.call((Stream::new(&connection), peer));
        async move {
            let served = match &place {
                Some(place) => match place.hold(serving).await {
                    Some(served) => served,
                    None => return Ok(()),
                },
                None => serving.await,
            };
            poll_fn(|cx| connection.borrow_mut().poll_end(cx)).await;
            served
        }
    })
}

/// Marks a response, in its extensions, that may take longer than `server.answer_timeout` as long as the client reads.
pub(crate) struct LongResponse;

/// Passes a request to the application, and reports to the connection when it begins and ends.
pub(super) fn track<S, B>(
    request: Request,
    app: &S,
) -> impl Future<Output = Result<Response<Tracked<B>>, Response<BoxBody>>> + use<S, B>
where
    S: Service<Request, Error = Response<BoxBody>>,
    S::Response: Into<Response<B>>,
    B: MessageBody,
{
    let exchange = request.conn_data::<Exchange>().cloned();
    let body = BodyLength::of(request.head());
    let in_progress = exchange.as_ref().map(|exchange| exchange.begin(body));
    let offers_upgrade = request.head().upgrade();
    let expects = request.head().expect();
    let is_last = request.head().connection_type() == ConnectionType::Close;
    let responding = app.call(request);
    async move {
        let mut response: Result<Response<B>, _> = responding.await.map(Into::into);
        let is_long = response
            .as_ref()
            .is_ok_and(|response| response.extensions().contains::<LongResponse>());
        let head = match &mut response {
            Ok(response) => response.head_mut(),
            Err(refusal) => refusal.head_mut(),
        };
        let status = head.status;
        let media_type = head.headers.get(header::CONTENT_TYPE);
        let is_stream = media_type.is_some_and(|it| it.as_bytes().starts_with(EVENT_STREAM));
        // Only files have ranges.
        let is_file = head.headers.contains_key(header::ACCEPT_RANGES);
        let is_switched = status == StatusCode::SWITCHING_PROTOCOLS;
        let answer = if is_stream || is_switched {
            Answer::Endless
        } else if is_file {
            Answer::File
        } else if is_long {
            Answer::Long
        } else {
            Answer::Bounded
        };
        if let Some(exchange) = &exchange {
            exchange.mark_answered(answer);
        }
        // The HTTP library would respond with `Connection: upgrade` and then close the connection.
        let ignores_offer = offers_upgrade && !is_switched;
        // Nobody knows whether a client that was not told to send its body sends it now.
        let is_unknown = |exchange: &Exchange| !exchange.state().framing.is_complete();
        let leaves_body = match body {
            _ if expects && exchange.as_ref().is_some_and(is_unknown) => true,
            BodyLength::Bytes(_) => false,
            // The HTTP library would read the rest of a refused body, and then parse it as a head.
            BodyLength::Chunked => status.is_client_error() || status.is_server_error(),
            // It takes all that follows for the body, so there can be no other request.
            BodyLength::Endless => !is_switched,
        };
        let is_draining = exchange.as_ref().is_some_and(Exchange::is_draining);
        let closes = ignores_offer || leaves_body || (is_draining && !is_switched);
        if closes {
            head.set_connection_type(ConnectionType::Close);
        }
        if (closes || is_last)
            && let Some(exchange) = exchange
        {
            exchange.mark_last();
        }
        match response {
            Ok(response) => Ok(response.map_body(|_, body| Tracked::new(body, in_progress))),
            Err(refusal) => Err(refusal.map_body(|_, body| {
                let body = Tracked::new(body, in_progress);
                BoxBody::new(body)
            })),
        }
    }
}
