//! An HTTP server on connections that keep our bounds.
//!
//! This is what actix-web's own `HttpServer` does, with [`Connection`] in place of the bare socket.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::header;
use actix_http::{ConnectionType, HttpService, KeepAlive, Request, Response, StatusCode};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory,
    fn_service, map_config,
};
use actix_web::Error;
use actix_web::dev::AppConfig;
use tokio::net::TcpStream;

use super::{Connection, Exchange, Limits, Tracked};

/// How a server takes connections.
pub(crate) struct ServerSpec {
    /// For the names of its threads.
    pub(crate) name: &'static str,
    /// Threads that answer.
    pub(crate) workers: usize,
    /// Connections at one time, over all threads; more wait until they are accepted.
    pub(crate) connections_max: usize,
    /// The bounds of each connection.
    pub(crate) limits: Limits,
    /// How long a connection that is being closed may take to read its last answer.
    pub(crate) disconnect_timeout: Duration,
    /// How long requests in flight may take once the server is told to stop, in whole seconds.
    pub(crate) shutdown_seconds: u64,
}

/// A server that serves what `app` makes on `listener`, once it is polled.
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
    let ServerSpec {
        name,
        workers,
        connections_max,
        limits,
        disconnect_timeout,
        shutdown_seconds,
    } = spec;
    let address = listener.local_addr()?;
    let builder = Server::build();
    let stopping = builder.graceful_shutdown_signal();
    let service = move || {
        let app = app().into_factory().map_err(Into::into);
        let app = map_config(app, |()| AppConfig::default());
        let (limits, stopping) = (limits.clone(), stopping.clone());
        let http = HttpService::build()
            // `Connection` keeps these two: the library times the head of the first request alone,
            // and by a clock that is half a second late.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(disconnect_timeout)
            // A client that closes its side has gone away: otherwise nobody notices before the
            // answer is written, and its work is done for nobody.
            .h1_allow_half_closed(false)
            .local_addr(address)
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .on_connect_ext(|connection: &Connection, data| {
                data.insert(connection.exchange().clone());
            })
            .h1(apply_fn_factory(app, track).map_err(|error: Error| error.error_response()));
        fn_service(move |socket: TcpStream| {
            let peer = socket.peer_addr().ok();
            let connection = Connection::new(socket, &limits);
            async move { Ok::<_, Infallible>((connection, peer)) }
        })
        .map_err(|never| match never {})
        .and_then(http)
    };
    Ok(builder
        .workers(workers)
        // For each worker.
        .max_concurrent_connections((connections_max / workers.max(1)).max(1))
        .shutdown_timeout(shutdown_seconds)
        .disable_signals()
        .listen(name, listener, service)?
        .run())
}

/// Answers a request, and tells the connection how long it is under way.
fn track<S, B>(
    request: Request,
    app: &S,
) -> impl Future<Output = Result<Response<Tracked<B>>, Error>> + use<S, B>
where
    S: Service<Request, Error = Error>,
    S::Response: Into<Response<B>>,
    B: MessageBody,
{
    let exchange = request.conn_data::<Exchange>().cloned();
    let under_way = exchange.as_ref().map(Exchange::begin);
    let offers_upgrade = request.head().upgrade();
    let chunked = request
        .head()
        .headers()
        .contains_key(header::TRANSFER_ENCODING);
    let answering = app.call(request);
    async move {
        let response = answering.await?;
        let mut response: Response<B> = response.into();
        let status = response.status();
        // The HTTP library would say that the connection is upgraded, and close it.
        let ignores_offer = offers_upgrade && status != StatusCode::SWITCHING_PROTOCOLS;
        // The rest of a refused body would be read as long as it comes, and taken for a head.
        let leaves_body = chunked && (status.is_client_error() || status.is_server_error());
        if ignores_offer || leaves_body {
            response
                .head_mut()
                .set_connection_type(ConnectionType::Close);
            if let Some(exchange) = exchange {
                exchange.say_last();
            }
        }
        Ok(response.map_body(|_, body| Tracked::new(body, under_way)))
    }
}
