//! The HTTP server: the routes, on connections that keep our bounds.
//!
//! This is what actix-web's own `HttpServer` does, with [`Connection`] in place of the bare socket.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_server::Server;
use actix_service::{IntoServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use tokio::net::TcpStream;

use super::{Routes, Shared};
use crate::connection::Connection;
use crate::middleware::{Observer, observe};
use crate::problem::extractors;
use crate::settings::sections::ServerSettings;

/// A server that serves `routes` on `listener` once it is polled, on at most `connections_max`
/// connections at one time; more wait until they are accepted.
pub(super) fn server(
    settings: &ServerSettings,
    connections_max: usize,
    shared: Shared,
    routes: Routes,
    listener: TcpListener,
) -> io::Result<Server> {
    let observer = web::Data::new(Observer::new(settings.request_deadline));
    let bodies = web::Data::new(shared.bodies);
    let readiness = web::Data::new(shared.readiness);
    let rooms = web::Data::new(shared.rooms);
    let limits = shared.limits;
    let address = listener.local_addr()?;
    let disconnect = settings.client_disconnect_timeout;
    let builder = Server::build();
    let stopping = builder.graceful_shutdown_signal();
    let service = move || {
        let app = App::new()
            .app_data(observer.clone())
            .app_data(bodies.clone())
            .app_data(readiness.clone())
            .app_data(rooms.clone())
            .configure(extractors)
            .configure(routes)
            .wrap(from_fn(observe));
        let app = app
            .into_factory()
            .map_err(|error: actix_web::Error| error.error_response());
        let (limits, stopping) = (limits.clone(), stopping.clone());
        let http = HttpService::build()
            // `Connection` keeps these two: the library times the head of the first request alone,
            // and by a clock that is half a second late.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(disconnect)
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
            .h1(map_config(app, move |()| AppConfig::default()));
        fn_service(move |socket: TcpStream| {
            let peer = socket.peer_addr().ok();
            let connection = Connection::new(socket, &limits);
            async move { Ok::<_, Infallible>((connection, peer)) }
        })
        .map_err(|never| match never {})
        .and_then(http)
    };
    let workers = settings.workers.count();
    Ok(builder
        .workers(workers)
        // For each worker.
        .max_concurrent_connections((connections_max / workers.max(1)).max(1))
        .shutdown_timeout(whole_seconds(settings.shutdown_deadline))
        .disable_signals()
        .listen("http", listener, service)?
        .run())
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
