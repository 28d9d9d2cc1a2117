//! The route table: every path of the main listener. Each resource has a file that is named after its
//! path.

mod actors;
mod chains;
mod dispatch;
mod event_stream;
mod explorer;
mod jobs;
mod openapi;
mod performance;
mod pools;
mod root;
mod rpc;
mod status;
mod table;
mod uploads;
mod v2;
mod wait;

use actix_web::web;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::route_class::{PROTOCOL, RouteClass};

pub use performance::JOB_KINDS;
pub use performance::load_test::{
    BYTES_MAX as LOAD_TEST_BYTES_MAX, LoadTestDeps, SOCKETS_MAX as LOAD_TEST_SOCKETS_MAX,
};
pub use rpc::RpcEdge;
#[cfg(any(test, fuzzing))]
pub(crate) use rpc::request::fuzz as rpc_request;
pub use uploads::FormLimits;
#[cfg(any(test, fuzzing))]
pub(crate) use uploads::fuzz;

pub use dispatch::Dispatch;
pub use table::{Role, Route, delete, get, head, not_found, options, patch, post, put};

/// The query of a request that has no parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

/// All routes of the main listener.
#[rustfmt::skip] // A table has one line for each route.
pub fn table() -> Vec<Route> {
    use RouteClass::{Control, Status, Transfer, Work};
    use Role::{Operator, Public, Reader, User};
    use performance::{connections, lazy_loader, load_test, memory, metrics, optimize, pins, preload};
    use uploads::tus;
    use v2::{config, infer, models, repository, statistics};

    vec![
        get("/", Public, Status, root::index, root::index_docs),
        get("/openapi.json", Public, Status, openapi::document, openapi::document_docs),
        get("/docs", Public, Status, explorer::page, explorer::page_docs),
        get("/docs/explorer.css", Public, Status, explorer::style, explorer::style_docs),
        get("/docs/explorer.js", Public, Status, explorer::script, explorer::script_docs),

        get("/api/actors", Reader, Status, actors::list, actors::list_docs),

        get("/api/jobs", Reader, Status, jobs::list, jobs::list_docs),
        get("/api/jobs/{id}", Reader, Status, jobs::one, jobs::one_docs),
        delete("/api/jobs/{id}", Operator, Control, jobs::cancel, jobs::cancel_docs),
        get("/api/jobs/{id}/events", Reader, Status, jobs::events::events, jobs::events::events_docs),

        get("/api/status", Reader, Status, status::status, status::status_docs),
        get("/api/status/events", Reader, Status, status::events, status::events_docs),

        get("/api/performance/metrics", Reader, Status, metrics::metrics, metrics::metrics_docs),
        get("/api/performance/memory/stats", Reader, Status, memory::stats, memory::stats_docs),
        post("/api/performance/memory/gc", Operator, Control, memory::gc, memory::gc_docs),
        get("/api/performance/lazy-loader/status", Reader, Status, lazy_loader::status, lazy_loader::status_docs),
        post("/api/performance/lazy-loader/preload", Operator, Control, preload::start, preload::start_docs),
        delete("/api/performance/lazy-loader/cache", Operator, Control, lazy_loader::clear, lazy_loader::clear_docs),
        put("/api/performance/lazy-loader/pins/{name}", Operator, Control, pins::pin, pins::pin_docs),
        delete("/api/performance/lazy-loader/pins/{name}", Operator, Control, pins::unpin, pins::unpin_docs),
        get("/api/performance/connections/stats", Reader, Status, connections::stats, connections::stats_docs),
        get("/api/performance/connections/health", Reader, Status, connections::health, connections::health_docs),
        post("/api/performance/optimize", Operator, Control, optimize::start, optimize::start_docs),
        get("/api/performance/optimize/history", Reader, Status, optimize::history, optimize::history_docs),
        post("/api/performance/load-test", Operator, Control, load_test::start, load_test::start_docs),

        get("/api/pools", Reader, Status, pools::list, pools::list_docs),

        get("/api/pools/{pool}", Reader, Status, pools::one, pools::one_docs),
        post("/api/pools/{pool}/probe", Operator, Work, pools::probe, pools::probe_docs),

        get("/api/chains", Reader, Status, chains::list, chains::list_docs),
        get("/api/chains/{chain}", Reader, Status, chains::one, chains::one_docs),
        get("/api/chains/{chain}/providers", Reader, Status, chains::providers, chains::providers_docs),
        post("/api/chains/{chain}/providers/{provider}/drain", Operator, Control, chains::drain, chains::drain_docs),
        post("/api/chains/{chain}/providers/{provider}/resume", Operator, Control, chains::resume, chains::resume_docs),
        post("/rpc/{chain}", User, Work, rpc::call, rpc::call_docs),
        get("/rpc/{chain}", User, Work, rpc::socket::open, rpc::socket::open_docs),

        get("/api/uploads", Reader, Work, uploads::list, uploads::list_docs),
        post("/api/uploads", User, Transfer, uploads::create, uploads::create_docs),
        get("/api/uploads/active", Reader, Status, uploads::active, uploads::active_docs),
        get("/api/uploads/infected", Reader, Work, uploads::infected::list, uploads::infected::list_docs),
        delete("/api/uploads/infected/{id}", Operator, Work, uploads::infected::remove, uploads::infected::remove_docs),
        options("/api/uploads/tus", Public, Status, tus::options, tus::options_docs),
        post("/api/uploads/tus", User, Transfer, tus::create, tus::create_docs),
        options("/api/uploads/tus/{id}", Public, Status, tus::options, tus::options_docs),
        head("/api/uploads/tus/{id}", Reader, Work, tus::find, tus::find_docs),
        patch("/api/uploads/tus/{id}", User, Transfer, tus::append, tus::append_docs),
        post("/api/uploads/tus/{id}", User, Transfer, tus::overridden, tus::overridden_docs),
        delete("/api/uploads/tus/{id}", User, Work, tus::terminate, tus::terminate_docs),
        get("/api/uploads/{id}", Reader, Work, uploads::one, uploads::one_docs),
        delete("/api/uploads/{id}", User, Work, uploads::remove, uploads::remove_docs),
        get("/api/uploads/{id}/content", Reader, Transfer, uploads::content::content, uploads::content::content_docs),
        post("/api/uploads/{id}/links", User, Work, uploads::link::make, uploads::link::make_docs),
        get("/api/links/{token}", Public, Transfer, uploads::link::open, uploads::link::open_docs),

        get("/v2", Public, Status, v2::server, v2::server_docs),

        get("/v2/health/live", Public, Status, v2::live, v2::live_docs),
        get("/v2/health/ready", Public, Status, v2::ready, v2::ready_docs),
        get("/v2/models/stats", Reader, Status, statistics::all, statistics::all_docs),
        get("/v2/models/{model}", Reader, Status, models::metadata, models::metadata_docs),
        get("/v2/models/{model}/versions/{version}", Reader, Status, models::metadata, models::metadata_docs),
        get("/v2/models/{model}/ready", Reader, Status, models::ready, models::ready_docs),
        get("/v2/models/{model}/versions/{version}/ready", Reader, Status, models::ready, models::ready_docs),
        get("/v2/models/{model}/config", Reader, Status, config::config, config::config_docs),
        get("/v2/models/{model}/versions/{version}/config", Reader, Status, config::config, config::config_docs),
        get("/v2/models/{model}/stats", Reader, Status, statistics::model, statistics::model_docs),
        get("/v2/models/{model}/versions/{version}/stats", Reader, Status, statistics::model, statistics::model_docs),
        post("/v2/models/{model}/infer", User, Work, infer::infer, infer::infer_docs),
        post("/v2/models/{model}/versions/{version}/infer", User, Work, infer::infer, infer::infer_docs),
        post("/v2/repository/index", Reader, Status, repository::index, repository::index_docs),
        post("/v2/repository/models/{model}/load", Operator, Control, repository::load, repository::load_docs),
        post("/v2/repository/models/{model}/unload", Operator, Control, repository::unload, repository::unload_docs),
    ]
}

/// Whether a route belongs to the Open Inference Protocol.
pub fn is_protocol(route: &Route) -> bool {
    route.path.starts_with(PROTOCOL)
}

/// Adds the route table to a server.
pub fn configure(config: &mut web::ServiceConfig) {
    let (protocol, other) = table().into_iter().partition(is_protocol);
    // The first service that a path belongs to gets the request.
    config
        .service(v2::scope(PROTOCOL, protocol))
        .service(Dispatch::new(other, not_found))
        .default_service(web::to(not_found));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_is_there_twice() {
        let table = table();
        let mut names: Vec<_> = table.iter().map(|route| format!("{route:?}")).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// A change of state needs more than a reader's key. An index of the repository is a read, although
    /// the protocol has it as POST. A WebSocket begins with a GET, and takes transactions.
    #[test]
    fn readers_change_nothing() {
        for route in table() {
            let changes = match route.path {
                "/v2/repository/index" => false,
                "/rpc/{chain}" => true,
                _ => !route.method.is_safe(),
            };
            assert_eq!(changes, route.role > Role::Reader, "{route:?}");
            assert!(!changes || route.class != RouteClass::Status, "{route:?}");
        }
    }
}
