//! The route table. Each resource has a file that is named after its path.

mod actors;
mod performance;
mod pools;
mod root;
mod v2;

use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, Route, guard, web};

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
    let route = web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    resource(path, route.to(handler), "GET, HEAD")
}

/// A resource with POST only.
fn postable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, web::post().to(handler), "POST")
}

/// A resource with the methods in `allow` only.
fn resource(path: &str, route: Route, allow: &'static str) -> Resource {
    let refuse = move || async move { refuse(Problem::method_not_allowed(allow)) };
    web::resource(path)
        .route(route)
        .default_service(web::to(refuse))
}

/// The response for paths without a resource.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    refuse(Problem::not_found())
}

fn refuse(problem: Problem) -> Result<HttpResponse, Problem> {
    Err(problem)
}
