//! `headroom doctor`: checks what the server needs on this machine, before or while it runs.
//!
//! Each check makes the decision that the server makes at its start or at a first use, with the same code
//! where there is such code, and says what would fail and what to do. Nothing is changed and nothing that
//! is started stays. All checks run at the same time, each within [`CHECK_WITHIN`].

mod address;
mod check;
mod files;
mod limits;
mod programs;
mod servers;

use std::mem::ManuallyDrop;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix_web::rt::System;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::client::URL_VARIABLE;
use super::output::{Style, count, print, print_json};
use super::server_url::ServerUrl;
use super::{Failure, environment};
use crate::settings::{self, Loaded, Settings, SettingsError, Sources};
use crate::startup::MachineError;
use check::{Check, Group, Report};

/// How long one check may take. Opening a connection to another server is bounded by its own setting, too.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// How long the model host may take in `check-config`: nothing else is checked at the same time, and libtorch may have to be
/// read from a slow disk.
const HOST_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Check what the server needs on this machine: programs, other servers, limits, files\n\n\
        Works without a running server. If one runs at server.listen, or at --url, it is asked, too. Nothing \
        is changed, and nothing that is started stays.\n\n\
        The exit code is 0 if all is well or there are only warnings, 1 if a check failed (with --strict: or \
        warned), 78 if the settings are wrong.",
    after_help = "Examples:\n  \
        headroom doctor\n  \
        headroom doctor --config /etc/headroom/default.toml --profile production --strict\n  \
        headroom doctor --json | jq '.checks[] | select(.outcome != \"ok\")'"
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    files: Sources,
    /// Also ask the server there [default: the one at server.listen]
    #[arg(long, value_name = "URL", env = URL_VARIABLE, hide_env_values = true)]
    url: Option<ServerUrl>,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs all checks and reports them.
pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let loaded = settings::load(&args.files, &environment());
    // Processes are started, which needs the runtime of an actor's thread. It is not dropped: that would
    // wait for a check that hangs in a system call.
    let system = ManuallyDrop::new(System::new());
    let report = system.block_on(examine(args, loaded));
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.render(Style::of_stdout()))?;
    }
    let failed = match args.strict {
        true => report.warnings + report.failures,
        false => report.failures,
    };
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Checks {
            count: count(failed, "check", "checks"),
            settings: report.has_failed(Group::Settings),
        }),
    }
}

/// Starts the model host, which loads libtorch, and reports what `check-config` refuses of it.
///
/// # Errors
/// No model can be loaded.
pub(super) fn check_host(settings: &Settings) -> Result<(), MachineError> {
    let system = ManuallyDrop::new(System::new());
    let checks = system.block_on(programs::host(settings.clone(), HOST_WITHIN));
    let faults: Vec<_> = checks.iter().filter_map(Check::fault).collect();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(MachineError(faults)),
    }
}

async fn examine(args: &DoctorArgs, loaded: Result<Loaded, SettingsError>) -> Report {
    let settings = loaded.map(|loaded| (loaded.settings, loaded.warnings));
    let mut checks: Vec<BoxFuture<'static, Vec<Check>>> = Vec::new();
    let url = args.url.clone();
    match settings {
        Ok((settings, warnings)) => {
            let warnings = warnings.into_iter().map(Check::of_warning).collect();
            checks.push(std::future::ready(warnings).boxed());
            let all = [
                blocking(Group::Settings, &settings, |settings| {
                    limits::settings(settings)
                }),
                blocking(Group::Limits, &settings, |settings| {
                    limits::limits(Some(settings))
                }),
                blocking(Group::Files, &settings, files::files),
                bounded(
                    Group::Programs,
                    programs::host(settings.clone(), CHECK_WITHIN),
                ),
                bounded(Group::Programs, programs::private_servers(settings.clone())),
                bounded(Group::Servers, servers::servers(settings.clone())),
                bounded(Group::Servers, servers::providers(settings.clone())),
                bounded(Group::Servers, servers::scanner(settings.clone())),
                bounded(Group::Servers, servers::bucket(settings.clone())),
                bounded(Group::Address, address::addresses(settings, url)),
            ];
            checks.extend(all);
        }
        Err(SettingsError(faults)) => {
            let faults = faults.into_iter().map(Check::of_setting).collect();
            checks.push(std::future::ready(faults).boxed());
            let limits = spawn_blocking(|| limits::limits(None));
            checks.push(bounded_by(CHECK_WITHIN, Group::Limits, limits));
            let others = [
                Group::Files,
                Group::Programs,
                Group::Servers,
                Group::Address,
            ];
            let skipped =
                others.map(|group| Check::skipped(group, "all", "the settings are wrong"));
            checks.push(std::future::ready(Vec::from(skipped)).boxed());
        }
    }
    Report::new(join_all(checks).await.concat())
}

/// A group of checks that ask the operating system. A file system or a kernel that hangs cannot hold up
/// the others.
fn blocking(
    group: Group,
    settings: &Settings,
    checks: fn(&Settings) -> Vec<Check>,
) -> BoxFuture<'static, Vec<Check>> {
    let settings = settings.clone();
    let checks = spawn_blocking(move || checks(&settings));
    bounded_by(CHECK_WITHIN, group, checks)
}

/// A group of checks that are bounded one by one. The bound of all is reached only if they fail to be.
fn bounded(
    group: Group,
    checks: impl Future<Output = Vec<Check>> + Send + 'static,
) -> BoxFuture<'static, Vec<Check>> {
    let checks = AssertUnwindSafe(checks).catch_unwind();
    bounded_by(2 * CHECK_WITHIN, group, checks)
}

/// A group of checks whose hang or panic is a check that has failed.
fn bounded_by<Panic: Send>(
    within: Duration,
    group: Group,
    checks: impl Future<Output = Result<Vec<Check>, Panic>> + Send + 'static,
) -> BoxFuture<'static, Vec<Check>> {
    async move {
        match timeout(within, checks).await {
            Ok(Ok(checks)) => checks,
            Ok(Err(_)) => vec![Check::panicked(group)],
            Err(_) => vec![Check::no_answer(group)],
        }
    }
    .boxed()
}

/// The URL of the server that `address` belongs to, for requests from this machine.
fn local_url(mut address: SocketAddr) -> ServerUrl {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let url = format!("http://{address}").parse();
    url.unwrap_or_else(|_| ServerUrl::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(checks: impl FnOnce() -> BoxFuture<'static, Vec<Check>>) -> Check {
        let mut found = System::new().block_on(async { checks().await });
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_group_that_panics_has_failed() {
        let settings = settings::load(&Sources::default(), &settings::Environment::new());
        let settings = settings.unwrap().settings;
        let panicked = Check::panicked(Group::Files);
        let found = only(|| blocking(Group::Files, &settings, |_| panic!("on purpose")));
        assert_eq!(found, panicked);
        let found = only(|| bounded(Group::Files, async { panic!("on purpose") }));
        assert_eq!(found, panicked);
        assert_eq!(Report::new(vec![panicked]).failures, 1);
    }

    #[test]
    fn a_group_that_hangs_has_failed() {
        let hangs = std::future::pending::<Result<Vec<Check>, ()>>();
        let found = only(|| bounded_by(Duration::from_millis(1), Group::Files, hangs));
        assert_eq!(found, Check::no_answer(Group::Files));
    }
}
