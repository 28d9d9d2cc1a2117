//! `PUT /api/performance/lazy-loader/pins/{name}`: pins a resource. It then has no TTL and is never evicted;
//! only an unload by name, or a stop of the server, unloads it. `DELETE` unpins it. Both respond with its
//! new state.
//!
//! `name` is that of a resource (`silero-vad:1`), or of a model for its default version (`silero-vad`). Pins
//! last until the server restarts, or until the model's settings say something else about pins than before.

use actix_web::{Responder, web};
use headroom_actors::lazy::{ResourceStatus, SetPinned};

use super::resource_name::resolve;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::Problem;
use crate::routes::NoParameters;

/// Documentation of a route for one pin.
fn one_pin(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable(
            "name",
            "The name of a resource, or of a model for its default version.",
            "silero-vad:1",
        )
        .query::<NoParameters>()
        .answer::<ResourceStatus>(200, "The new state of the resource.")
        .calls_actors()
}

pub(in crate::routes) fn pin_docs() -> Docs {
    one_pin("Pin a resource: it has no TTL and is never evicted").text(
        "Pins last until the server restarts, or until the model's settings say something else about pins.",
    )
}

pub(in crate::routes) fn unpin_docs() -> Docs {
    one_pin("Unpin a resource").text("If its TTL is over, it is unloaded next.")
}

pub(in crate::routes) async fn pin(
    handles: RequestHandles,
    name: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    set(&handles, name.into_inner(), true).await.map(web::Json)
}

pub(in crate::routes) async fn unpin(
    handles: RequestHandles,
    name: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    set(&handles, name.into_inner(), false).await.map(web::Json)
}

async fn set(
    handles: &RequestHandles,
    name: String,
    pinned: bool,
) -> Result<ResourceStatus, Problem> {
    let set = async |name| {
        let set = SetPinned { name, pinned };
        handles.loader.ask(set, handles.left()).await
    };
    if let Ok(status) = set(name.clone()).await? {
        return Ok(status);
    }
    // It may be a model's name, or a model that was added to the folder.
    let resource = resolve(&name, handles, handles.left()).await?;
    Ok(set(resource).await??)
}
