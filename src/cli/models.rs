//! `headroom models`: what can be loaded, what is loaded, and changes of that.
//!
//! `list` asks a server if one is named, and reads the models folder otherwise, which needs no server. The
//! other commands always ask a server.

mod folder;
mod load;
mod pins;
mod resources;
mod unload;

use clap::Subcommand;

use super::client::{Bounds, Client, ServerArgs, URL_VARIABLE, run};
use super::server_url::ServerUrl;
use super::{Failure, environment};
use crate::settings::{self, Sources};

#[derive(Debug, Subcommand)]
pub(super) enum ModelsCommand {
    /// List what a server can load, or the models in models.dir without a server
    ///
    /// With --url or HEADROOM_URL, the resources of that server: the phase of each, its memory and its use.
    /// Without, the models in models.dir: each version, its size, and errors in its settings. That needs no
    /// server.
    #[command(after_help = "Examples:\n  \
        headroom models list\n  \
        headroom models list --config /etc/headroom/default.toml --json\n  \
        headroom models list --url http://127.0.0.1:8080")]
    List(ListArgs),
    /// Load models now, with what they need, and wait for the result
    ///
    /// Models that are named are loaded as their first requests would load them: idle models are unloaded
    /// where their memory is needed. --kind and --all-that-fit load only what fits beside what is loaded.
    /// Ctrl-C cancels the job on the server. The exit code is 1 if something was not loaded.
    #[command(after_help = "Examples:\n  \
        headroom models load silero-vad\n  \
        headroom models load silero-vad:1 other:3\n  \
        headroom models load --all-that-fit --no-wait")]
    Load(load::LoadArgs),
    /// Unload models; those in use when their requests are done
    #[command(after_help = "Examples:\n  \
        headroom models unload silero-vad:1\n  \
        headroom models unload --all --idle 10m\n  \
        headroom models unload --kind model --dry-run")]
    Unload(unload::UnloadArgs),
    /// Keep a model in memory: it has no TTL, and is not evicted
    #[command(after_help = "Example:\n  headroom models pin silero-vad:1")]
    Pin(pins::PinArgs),
    /// Undo a pin
    #[command(after_help = "Example:\n  headroom models unpin silero-vad:1")]
    Unpin(pins::PinArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Ask this server, and do not read models.dir
    #[arg(long, value_name = "URL", env = URL_VARIABLE, hide_env_values = true)]
    url: Option<ServerUrl>,
    #[command(flatten)]
    bounds: Bounds,
    #[command(flatten)]
    files: Sources,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(command: &ModelsCommand) -> Result<(), Failure> {
    match command {
        ModelsCommand::List(args) => list(args),
        ModelsCommand::Load(args) => run(load::load(args)),
        ModelsCommand::Unload(args) => run(unload::unload(args)),
        ModelsCommand::Pin(args) => run(pins::set(args, true)),
        ModelsCommand::Unpin(args) => run(pins::set(args, false)),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    match &args.url {
        Some(url) => {
            let client = Client::new(url, args.bounds, args.json)?;
            run(resources::list(&client, args.json))
        }
        None => {
            let loaded = settings::load(&args.files, &environment())?;
            folder::list(&loaded.settings.models.dir, args.json)
        }
    }
}

/// The server and the form of the output.
#[derive(Debug, clap::Args)]
pub(super) struct Asking {
    #[command(flatten)]
    server: ServerArgs,
    /// Print the server's JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Asking {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.server.url, self.server.bounds, self.json)
    }
}
