//! Builds the main HTTP server: routes, middleware and connections.

use std::io;
use std::net::TcpListener;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, web};

use super::{Routes, Shared};
use crate::connection::{self, ServerSpec};
use crate::middleware::{Hosts, Observer, observe};
use crate::problem::extractors;
use crate::settings::sections::ServerSettings;

/// Makes the server for `routes` on `listener`. It runs when it is polled. At most `connections_max`
/// connections are open; further ones wait in the listen queue. It answers to `hosts`.
pub(super) fn server(
    settings: &ServerSettings,
    connections_max: usize,
    hosts: Hosts,
    shared: Shared,
    routes: Routes,
    listener: TcpListener,
) -> io::Result<Server> {
    let (deadline, figures) = (settings.request_deadline, shared.figures.http);
    let models = web::Data::from(shared.figures.models);
    let bodies = web::Data::new(shared.bodies);
    let readiness = web::Data::new(shared.readiness);
    let liveness = web::Data::new(shared.liveness);
    let handles = web::Data::new(shared.handles);
    let sections = web::Data::from(shared.sections);
    let last_answers = web::Data::from(shared.last_answers);
    let load_test = web::Data::from(shared.load_test);
    let form = web::Data::from(shared.form);
    let rpc = web::Data::from(shared.rpc);
    let feed = web::Data::from(shared.feed);
    let spec = ServerSpec {
        name: "http",
        workers: settings.workers.count(),
        connections_max,
        crowded_above: None,
        limits: shared.limits,
        drain: shared.drain,
    };
    let drain = spec.drain.clone();
    connection::server(spec, listener, move || {
        // This runs once on each worker thread.
        let observer = Observer::new(deadline, hosts.clone(), figures.counter(), drain.clone());
        App::new()
            .app_data(web::Data::new(observer))
            .app_data(bodies.clone())
            .app_data(readiness.clone())
            .app_data(liveness.clone())
            .app_data(handles.clone())
            .app_data(models.clone())
            .app_data(sections.clone())
            .app_data(last_answers.clone())
            .app_data(load_test.clone())
            .app_data(form.clone())
            .app_data(rpc.clone())
            .app_data(feed.clone())
            .configure(extractors)
            .configure(routes)
            .wrap(from_fn(observe))
    })
}
