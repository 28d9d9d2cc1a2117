//! `/api/performance`: memory and connections.

mod connections;
mod memory;

use actix_web::web;

use super::{postable, readable};

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/api/performance/memory/stats", memory::stats))
        .service(postable("/api/performance/memory/gc", memory::gc))
        .service(readable(
            "/api/performance/connections/stats",
            connections::stats,
        ))
        .service(readable(
            "/api/performance/connections/health",
            connections::health,
        ));
}
