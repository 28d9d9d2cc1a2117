//! The servers that are compared.

use std::net::TcpListener;

use actix_web::{App, HttpServer, web};

use super::{Item, Ready, headroom};
use crate::Result;

/// A server that is compared.
#[derive(Clone, Copy)]
pub(super) struct ServerKind {
    /// Its name, in the table and on the command line.
    pub(super) label: &'static str,
    pub(super) program: Program,
    /// Whether it calls an actor, and measures it.
    pub(super) calls_actor: bool,
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
        calls_actor: false,
    }
}

const fn node(label: &'static str, file: &'static str) -> ServerKind {
    ServerKind {
        label,
        program: Program::Node(file),
        calls_actor: false,
    }
}

/// All servers. The first is the one that the others are compared with.
pub(super) const SERVERS: &[ServerKind] = &[
    own("actix-web, bare", bare),
    own("Headroom", headroom::serve_directly),
    ServerKind {
        calls_actor: true,
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
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    actix_rt::System::new().block_on(async {
        let app = || App::new().route("/items/{id}", web::get().to(item));
        let server = HttpServer::new(app).workers(1).listen(listener)?.run();
        Ready::write(address)?;
        Ok(server.await?)
    })
}

/// The handler of all servers with actix-web that call no actor.
pub(super) async fn item(id: web::Path<u64>) -> web::Json<Item> {
    web::Json(Item::new(id.into_inner()))
}

#[cfg(feature = "peers")]
fn axum_server() -> Result<()> {
    use axum::extract::Path;
    use axum::routing::get;
    use axum::{Json, Router};

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
