//! The programs that the server starts: the model host with its libtorch, and private servers.

use std::process::Stdio;

use futures_util::future::join;
use headroom_actors::kernel::ProcessExit;
use headroom_actors::kernel::private_server::ServerKind;
use headroom_actors::kernel::process::{Process, ProcessSpec, setpriv};
use headroom_actors::{postgres, redis};
use tokio::time::timeout;

use super::CHECK_WITHIN;
use super::check::{Check, Group};
use crate::settings::Settings;
use crate::settings::sections::EmbeddedSettings;
use crate::startup::host_binary;
use crate::startup::pools::{POSTGRES_FOLDER, REDIS_FOLDER, embedded};

const GROUP: Group = Group::Programs;

/// The model host: it runs, has the version of this program, and finds libtorch.
pub(super) async fn host(settings: Settings) -> Vec<Check> {
    let name = "model host";
    let failure =
        |found: String| Check::failure(GROUP, name, found).would_fail("no model can be loaded");
    let path = match host_binary(&settings.models) {
        Ok(path) => path,
        Err(error) => return vec![failure(error.to_string()).remedy("set models.host_binary")],
    };
    let shown = path.display();
    let spec = ProcessSpec::new("doctor", &path).argument("--version");
    let ran = timeout(CHECK_WITHIN, Process::run(&spec, Stdio::null())).await;
    let (exit, lines) =
        match ran {
            Ok(Ok(ran)) => ran,
            Ok(Err(error)) => {
                return vec![failure(format!("{shown}: {error}")).remedy(
                    "put headroom-model-host beside this program, or set models.host_binary",
                )];
            }
            Err(_) => {
                let found = format!("{shown} --version does not end");
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
    checks
}

/// The programs of private servers, where private servers may be started.
pub(super) async fn private_servers(settings: Settings) -> Vec<Check> {
    let data = &settings.data.dir;
    let redis = &settings.redis;
    let roles = [&redis.primary, &redis.cache, &redis.pubsub];
    let mut needs_redis = roles.into_iter().map(super::limits::has_server);
    let (postgres, redis) = join(
        private_server(
            &postgres::PRIVATE_SERVER,
            &settings.postgres.embedded,
            data.join(POSTGRES_FOLDER),
            settings.postgres.url.is_none(),
        ),
        private_server(
            &redis::PRIVATE_SERVER,
            &redis.embedded,
            data.join(REDIS_FOLDER),
            needs_redis.any(|is_configured| !is_configured),
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

/// One private server. `None` if none would be started.
async fn private_server(
    kind: &'static ServerKind,
    settings: &EmbeddedSettings,
    folder: std::path::PathBuf,
    is_needed: bool,
) -> Option<Check> {
    if !is_needed || !settings.enabled {
        return None;
    }
    let name = format!("private {}", kind.product());
    let config = embedded(settings, folder);
    let would_fail = format!("requests that need {} get a 503", kind.product());
    Some(match timeout(CHECK_WITHIN, kind.inspect(&config)).await {
        Ok(Ok(found)) => {
            let (version, folder) = (&found.version, found.programs.display());
            let found = format!("{version} in {folder}, would run as {}", found.user);
            Check::ok(GROUP, &name, found)
        }
        // Its text says what to do.
        Ok(Err(error)) => Check::failure(GROUP, &name, error.to_string()).would_fail(would_fail),
        Err(_) => Check::failure(
            GROUP,
            &name,
            "its program does not end when asked for its version",
        )
        .would_fail(would_fail)
        .remedy("look for a disk that hangs"),
    })
}
