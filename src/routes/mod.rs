//! The route table. Each resource has a file that is named after its path.

mod actors;
mod performance;
mod pools;
mod root;
mod v2;

use actix_web::{FromRequest, Handler, Resource, Responder, guard, web};

use crate::problem::Problem;

/// All routes of the main listener.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/", root::index))
        .service(readable("/api/actors", actors::list))
        .configure(performance::configure)
        .configure(pools::configure)
        .configure(v2::configure)
        .default_service(web::to(not_found));
}

/// A resource with GET and HEAD only.
pub fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(
            web::route()
                .guard(guard::Any(guard::Get()).or(guard::Head()))
                .to(handler),
        )
        .default_service(web::to(|| async {
            Problem::method_not_allowed("GET, HEAD")
        }))
}

/// A resource with POST only.
fn postable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::post().to(handler))
        .default_service(web::to(|| async { Problem::method_not_allowed("POST") }))
}

/// The response for paths without a resource.
pub async fn not_found() -> Problem {
    Problem::not_found()
}
