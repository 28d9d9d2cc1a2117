//! Headroom's own edge with the route of the comparison: its connections, its middleware, its actors'
//! thread. One variant answers in the handler, the other asks an actor.

use std::fs;
use std::sync::OnceLock;
use std::time::Instant;

use actix::{Actor, Context, Handler};
use actix_web::web;
use headroom::handles::RequestHandles;
use headroom::problem::Problem;
use headroom::settings::{Environment, Reloader, Sources, load};
use headroom::startup::{Application, Routes};
use headroom::telemetry;
use headroom_actors::kernel::{
    Call, Child, ChildSpec, Handle, Message, Root, SupervisorSpec, Tree,
};
use tokio::sync::mpsc;

use super::servers::item;
use super::{Item, hops};
use crate::Result;
use crate::running::ready_file;

/// Calls that may wait for the actor.
const CALLS_MAX: u32 = 1024;

/// The actor that makes items.
struct Items;

impl Actor for Items {
    type Context = Context<Self>;
}

impl Child for Items {}

/// Asks for an item.
struct Make(u64);

impl Message for Make {
    type Reply = Item;
}

impl Handler<Call<Make>> for Items {
    type Result = ();

    fn handle(&mut self, call: Call<Make>, _: &mut Context<Self>) {
        if let Some((Make(id), reply)) = call.accept() {
            reply.send(Item::new(id));
        }
    }
}

/// Routes are functions without state, so the process has one actor.
static ITEMS: OnceLock<Handle<Items>> = OnceLock::new();

/// The handler answers.
pub(super) fn serve_directly() -> Result<()> {
    serve(|config| {
        config.route("/items/{id}", web::get().to(item));
    })
}

/// The handler asks the actor, as the handlers of Headroom's own routes do.
pub(super) fn serve_by_actor() -> Result<()> {
    serve(|config| {
        config
            .route("/items/{id}", web::get().to(item_of_actor))
            .route(hops::PATH, web::get().to(hops::times));
    })
}

fn serve(routes: Routes) -> Result<()> {
    // The folder of the ready file is removed when this process has been killed.
    let ready = ready_file()?;
    let folder = ready.with_file_name("headroom");
    fs::create_dir(&folder)?;
    let file = folder.join("headroom.toml");
    let text = format!(
        "server = {{ listen = '127.0.0.1:0', admin_listen = '127.0.0.1:0', workers = 1 }}\n\
         data.dir = '{0}/data'\nmodels.dir = '{0}/models'\n",
        folder.display()
    );
    fs::write(&file, text)?;
    let sources = Sources {
        config: Some(file),
        profile: None,
    };
    let environment = Environment::new();
    let settings = load(&sources, &environment)?.settings;
    // The filter of the log is a part of the middleware's cost.
    telemetry::install_logs(&settings.log)?;
    let mut application = Application::build(Reloader::new(sources, environment, settings))?;
    application.routes = routes;
    application.ready_file = Some(ready);
    let (_stop, signals) = mpsc::channel(1);
    actix_rt::System::new().block_on(async {
        let items = ITEMS.get_or_init(|| Handle::new("items", CALLS_MAX));
        let child = ChildSpec::actor(items, |_| Items);
        let spec = SupervisorSpec::new("bench").child(child);
        let root = Root::start(spec, &Tree::default()).await;
        let root = root.map_err(|exit| exit.to_string())?;
        application.run(signals).await?;
        root.stop().await;
        Ok(())
    })
}

async fn item_of_actor(
    id: web::Path<u64>,
    handles: RequestHandles,
) -> Result<web::Json<Item>, Problem> {
    let Some(items) = ITEMS.get() else {
        return Err(Problem::not_found());
    };
    let begun = Instant::now();
    let item = items.ask(Make(id.into_inner()), handles.left()).await?;
    hops::record(begun.elapsed());
    Ok(web::Json(item))
}
