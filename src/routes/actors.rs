//! `GET /api/actors`: the supervision tree, every child with its state.

use actix_web::{Responder, web};
use serde::Serialize;

use headroom_actors::kernel::NodeSnapshot;
use utoipa::ToSchema;

use crate::handles::RequestHandles;
use crate::openapi::Docs;

/// The supervision tree.
#[derive(Serialize, ToSchema)]
#[schema(as = SupervisionTree)]
struct Actors {
    /// The children of the root, each with its own.
    actors: Vec<NodeSnapshot>,
}

pub(super) fn list_docs() -> Docs {
    Docs::new("The supervision tree, every child with its state").answer::<Actors>(200, "The tree.")
}

pub(super) async fn list(handles: RequestHandles) -> impl Responder {
    web::Json(Actors {
        actors: handles.tree.snapshot().await,
    })
}
