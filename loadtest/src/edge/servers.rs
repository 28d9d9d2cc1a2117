//! The servers that are compared.

use std::thread;
use std::time::Instant;

use actix_web::error::ErrorServiceUnavailable;
use actix_web::web;
use tokio::sync::{mpsc, oneshot};

use super::{Item, headroom, hops};
use crate::Result;
use crate::running::serve;

/// A server that is compared.
#[derive(Clone, Copy)]
pub(super) struct ServerKind {
    /// Its name, in the table and on the command line.
    pub(super) label: &'static str,
    pub(super) program: Program,
    /// Whether its handler asks another thread, and measures that.
    pub(super) asks_thread: bool,
}

/// The program that runs a server.
#[derive(Clone, Copy)]
pub(super) enum Program {
    /// This binary.
    Own(fn() -> Result<()>),
    /// A file in `peers/node`.
    Node(&'static str),
}

const fn own(label: &'static str, run: fn() -> Result<()>) -> ServerKind {
    ServerKind {
        label,
        program: Program::Own(run),
        asks_thread: false,
    }
}

const fn node(label: &'static str, file: &'static str) -> ServerKind {
    ServerKind {
        label,
        program: Program::Node(file),
        asks_thread: false,
    }
}

/// All servers. The first is the one that the others are compared with.
pub(super) const SERVERS: &[ServerKind] = &[
    own("actix-web, bare", bare),
    ServerKind {
        asks_thread: true,
        ..own("actix-web, with a call of a bare task", bare_with_task)
    },
    own("Headroom", headroom::serve_directly),
    ServerKind {
        asks_thread: true,
        ..own(
            "Headroom, with a call of an actor",
            headroom::serve_by_actor,
        )
    },
    #[cfg(feature = "peers")]
    own("axum", axum_server),
    node("Fastify", "fastify.js"),
    node("Express", "express.js"),
];

/// Nothing but the route.
fn bare() -> Result<()> {
    serve(|config| {
        config.route("/items/{id}", web::get().to(item));
    })
}

/// The handler of all servers with actix-web that call no actor.
pub(super) async fn item(id: web::Path<u64>) -> web::Json<Item> {
    web::Json(Item::new(id.into_inner()))
}

/// A call of the task of [`bare_with_task`].
type TaskCall = (u64, oneshot::Sender<Item>);

/// Calls that may wait for the task.
const TASK_CALLS_MAX: usize = 1024;

/// Nothing but the route, and a task of another thread that its handler asks: the least that a call of an
/// actor can cost.
fn bare_with_task() -> Result<()> {
    let (calls, mut waiting) = mpsc::channel::<TaskCall>(TASK_CALLS_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            while let Some((id, reply)) = waiting.recv().await {
                // The client may have gone away.
                reply.send(Item::new(id)).ok();
            }
        });
    });
    let calls = web::Data::new(calls);
    serve(move |config| {
        config
            .app_data(calls.clone())
            .route("/items/{id}", web::get().to(item_of_task))
            .route(hops::PATH, web::get().to(hops::times));
    })
}

async fn item_of_task(
    id: web::Path<u64>,
    calls: web::Data<mpsc::Sender<TaskCall>>,
) -> actix_web::Result<web::Json<Item>> {
    let begun = Instant::now();
    let (reply, item) = oneshot::channel();
    calls
        .try_send((id.into_inner(), reply))
        .map_err(|_| ErrorServiceUnavailable("the task is busy"))?;
    let item = item
        .await
        .map_err(|_| ErrorServiceUnavailable("the task has ended"))?;
    hops::record(begun.elapsed());
    Ok(web::Json(item))
}

#[cfg(feature = "peers")]
fn axum_server() -> Result<()> {
    use axum::extract::Path;
    use axum::routing::get;
    use axum::{Json, Router};

    use crate::running::Ready;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let handler = async |Path(id): Path<u64>| Json(Item::new(id));
        let app = Router::new().route("/items/{id}", get(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        Ready::write(listener.local_addr()?)?;
        Ok(axum::serve(listener, app).await?)
    })
}
