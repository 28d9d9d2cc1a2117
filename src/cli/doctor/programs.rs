//! The programs that the server starts: the model host with its libtorch, and private servers.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::{join, try_join_all};
use headroom_actors::kernel::ProcessExit;
use headroom_actors::kernel::private_server::ServerKind;
use headroom_actors::kernel::process::{Process, ProcessSpec, setpriv};
use headroom_actors::model::SandboxMode;
use headroom_actors::postgres;
use headroom_actors::redis::{self, Role};
use tokio::time::timeout;

use super::CHECK_WITHIN;
use super::check::{Check, Group};
use crate::settings::Settings;
use crate::settings::sections::EmbeddedSettings;
use crate::startup::host_binary;
use crate::startup::pools::{self, POSTGRES_FOLDER, embedded};

const GROUP: Group = Group::Programs;

/// How the model host begins the line about its confinement.
const CONFINEMENT: &str = "confinement ";

/// The model host: it runs, has the version of this program, and finds libtorch.
pub(super) async fn host(settings: Settings, within: Duration) -> Vec<Check> {
    let name = "model host";
    let failure =
        |found: String| Check::failure(GROUP, name, found).would_fail("no model can be loaded");
    let path = match host_binary(&settings.models) {
        Ok(path) => path,
        Err(error) => return vec![failure(error.to_string()).remedy("set models.host_binary")],
    };
    let shown = path.display();
    let spec = ProcessSpec::new("doctor", &path).argument("--version");
    let ran = timeout(within, Process::run(&spec, Stdio::null())).await;
    let (exit, lines) =
        match ran {
            Ok(Ok(ran)) => ran,
            Ok(Err(error)) => {
                return vec![failure(format!("{shown}: {error}")).remedy(
                    "put headroom-model-host beside this program, or set models.host_binary",
                )];
            }
            Err(_) => {
                let found = format!("{shown} --version does not end within {within:?}");
                return vec![failure(found).remedy("look for a disk that hangs")];
            }
        };
    let text = lines.join("; ");
    if exit != ProcessExit::Code(0) {
        let is_library = text.contains("shared librar");
        let remedy = match is_library {
            true => {
                "put libtorch's lib folder beside the program's folder as ../lib, or name it in \
                     LD_LIBRARY_PATH of the server"
            }
            false => "check that models.host_binary is headroom-model-host",
        };
        let what = if is_library {
            "libtorch is missing: "
        } else {
            ""
        };
        return vec![failure(format!("{shown}: {what}{text} ({exit})")).remedy(remedy)];
    }
    let [version, rest @ ..] = &lines[..] else {
        return vec![
            failure(format!("{shown} --version prints nothing"))
                .remedy("check that models.host_binary is headroom-model-host"),
        ];
    };
    let mut checks = vec![match version.strip_prefix("headroom-model-host ") {
        Some(env!("CARGO_PKG_VERSION")) => Check::ok(GROUP, name, format!("{version} at {shown}")),
        Some(other) => Check::warning(GROUP, name, format!("version {other} at {shown}"))
            .would_fail("loads may fail: this program has another version")
            .remedy("install both programs from one release"),
        None => failure(format!("{shown} is another program: {version}"))
            .remedy("set models.host_binary to headroom-model-host"),
    }];
    let libtorch = rest.iter().find_map(|line| line.strip_prefix("libtorch "));
    checks.extend(libtorch.map(|found| Check::ok(GROUP, "libtorch", found)));
    let confinement = rest.iter().find_map(|line| line.strip_prefix(CONFINEMENT));
    checks.extend(confinement.map(|found| sandbox(found, settings.models.sandbox)));
    checks
}

/// How a process of a model is confined here, beside what the settings ask for.
fn sandbox(found: &str, mode: SandboxMode) -> Check {
    let name = "models.sandbox";
    let shown = format!("{}: the confinement is {found}", mode.label());
    let remedy = "enable Landlock (Linux 5.13, in `lsm=` at boot) and seccomp, also in a container's profile; run the \
                  server as a user of its own, not as root";
    match mode {
        _ if found == "complete" => Check::ok(GROUP, name, shown),
        SandboxMode::Off => Check::ok(GROUP, name, shown),
        SandboxMode::BestEffort => Check::warning(GROUP, name, shown)
            .would_fail("a hostile model can reach more than a model needs")
            .remedy(remedy),
        SandboxMode::Required => Check::failure(GROUP, name, shown)
            .would_fail("no model can be loaded")
            .remedy(remedy),
    }
}

/// The programs of private servers, where private servers may be started.
pub(super) async fn private_servers(settings: Settings) -> Vec<Check> {
    let data = &settings.data.dir;
    let servers = &settings.redis;
    let postgres_folder = settings.postgres.url.is_none().then_some(POSTGRES_FOLDER);
    let roles = [
        (Role::Primary, &servers.primary),
        (Role::Cache, &servers.cache),
        (Role::PubSub, &servers.pubsub),
    ];
    let roles = roles.into_iter();
    let private_roles = roles.filter(|(_, configured)| !super::limits::has_server(configured));
    let redis_folders = private_roles.map(|(role, _)| pools::redis::folder(role));
    let (postgres, redis) = join(
        private_server(
            &postgres::PRIVATE_SERVER,
            &settings.postgres.embedded,
            postgres_folder
                .map(|name| data.join(name))
                .into_iter()
                .collect(),
        ),
        private_server(
            // Those of the other roles differ only in their settings.
            redis::private_server(Role::Primary),
            &servers.embedded,
            redis_folders.map(|name| data.join(name)).collect(),
        ),
    )
    .await;
    let mut checks: Vec<Check> = [postgres, redis].into_iter().flatten().collect();
    if !checks.is_empty() {
        checks.push(match setpriv() {
            Some(path) => Check::ok(GROUP, "setpriv", path.display().to_string()),
            None => Check::warning(GROUP, "setpriv", "not found")
                .would_fail("private servers outlive a server that is killed")
                .remedy("install util-linux"),
        });
    }
    checks
}

/// The private servers of one kind, which would be started in `folders`. `None` if none would be started.
async fn private_server(
    kind: &'static ServerKind,
    settings: &EmbeddedSettings,
    folders: Vec<PathBuf>,
) -> Option<Check> {
    if folders.is_empty() || !settings.enabled {
        return None;
    }
    let name = format!("private {}", kind.product());
    let would_fail = format!("requests that need {} get a 503", kind.product());
    let inspections = folders.into_iter().map(async |folder| {
        let config = embedded(settings, folder);
        kind.inspect(&config).await
    });
    Some(
        match timeout(CHECK_WITHIN, try_join_all(inspections)).await {
            Ok(Ok(found)) => {
                let found = found.iter().map(|found| {
                    let (version, folder) = (&found.version, found.programs.display());
                    format!("{version} in {folder}, would run as {}", found.user)
                });
                let mut found: Vec<_> = found.collect();
                found.dedup();
                Check::ok(GROUP, &name, found.join("; "))
            }
            // Its text says what to do.
            Ok(Err(error)) => {
                Check::failure(GROUP, &name, error.to_string()).would_fail(would_fail)
            }
            Err(_) => Check::failure(
                GROUP,
                &name,
                "its program does not end when asked for its version",
            )
            .would_fail(would_fail)
            .remedy("look for a disk that hangs"),
        },
    )
}
