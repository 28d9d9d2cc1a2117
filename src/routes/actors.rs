//! `GET /api/actors`: the supervision tree, every child with its state.

use actix_web::{Responder, web};
use serde::Serialize;

use headroom_actors::kernel::NodeSnapshot;

use crate::rooms::Rooms;

#[derive(Serialize)]
struct Actors {
    /// Threads that blocked for ever and had to be left behind.
    abandoned_threads: u64,
    actors: Vec<NodeSnapshot>,
}

pub(super) async fn list(rooms: web::Data<Rooms>) -> impl Responder {
    web::Json(Actors {
        abandoned_threads: rooms.tree.abandoned_threads(),
        actors: rooms.tree.snapshot().await,
    })
}
