//! `GET /api/actors`: the supervision tree, every child with its state.

use actix_web::{Responder, web};
use serde::Serialize;

use headroom_actors::kernel::NodeSnapshot;

use crate::handles::RequestHandles;

#[derive(Serialize)]
struct Actors {
    actors: Vec<NodeSnapshot>,
}

pub(super) async fn list(handles: RequestHandles) -> impl Responder {
    web::Json(Actors {
        actors: handles.tree.snapshot().await,
    })
}
