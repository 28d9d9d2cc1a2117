//! A private Redis, for when no other is configured.
//!
//! It is a store, not a cache: what it acknowledges is on the disk (`appendfsync always`), it loses
//! nothing to make room (`noeviction`), and it ends rather than to go on when it cannot write. A
//! file that a crash cut off within its last command is loaded without that command, which was
//! never acknowledged.
//!
//! Its settings are written anew before each start. They hold the password, so they are for its
//! user's eyes alone; who may get in at all is told in
//! [`private_server`](crate::kernel::private_server).

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use nix::sys::signal::Signal;

use crate::kernel::private_server::{
    DataDir, Orphans, Prepared, PrivateServer, PrivateServerConfig, PrivateServerError, Server,
    Socket, new_secret, percent_encoded,
};
use crate::kernel::process::{Process, ProcessSpec};
use crate::kernel::{Budget, ProcessExit, SupervisorHandle};

/// Its name in logs, in errors and in the ledger.
const NAME: &str = "redis";

/// What an idle server takes, and a first few megabytes of data.
const ESTIMATED_BYTES: u64 = 16 << 20;

/// The program that is needed.
const PROGRAMS: [&str; 1] = ["redis-server"];

/// The file with the password.
const PASSWORD: &str = "password";

/// The file of the socket.
const SOCKET: &str = "redis.sock";

/// The line that says that it answers, as much of it as all versions agree on.
const READY: &str = "eady to accept connections";

/// Settings that do not depend on where it runs.
const SETTINGS: &str = "\
port 0
unixsocketperm 700
daemonize no
supervised no
logfile \"\"
loglevel notice
always-show-logo no
databases 16
maxclients 200
maxmemory 64mb
maxmemory-policy noeviction
save \"\"
appendonly yes
appendfsync always
aof-load-truncated yes
no-appendfsync-on-rewrite no
auto-aof-rewrite-min-size 16mb
stop-writes-on-bgsave-error no
";

/// A Redis of our own with its data where `config` says, that runs under `supervisor` within
/// `budget`. Nothing is started or written before it is needed. Its URL is `redis+unix:`, with the password.
pub fn private_server(
    config: PrivateServerConfig,
    supervisor: SupervisorHandle,
    budget: Arc<dyn Budget>,
) -> PrivateServer {
    PrivateServer::new(Redis, config, supervisor, budget)
}

struct Redis;

impl Server for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn usual_user(&self) -> &'static str {
        "redis"
    }

    fn estimated_bytes(&self) -> u64 {
        ESTIMATED_BYTES
    }

    fn orphans(&self, data_dir: &DataDir) -> Orphans {
        Orphans {
            what: NAME,
            programs: &PROGRAMS,
            folders: vec![data_dir.folder.clone()],
            signals: &[Signal::SIGTERM],
        }
    }

    fn prepare(
        &self,
        data_dir: Arc<DataDir>,
        config: PrivateServerConfig,
    ) -> BoxFuture<'static, Result<Prepared, PrivateServerError>> {
        prepare(data_dir, config).boxed()
    }
}

async fn prepare(
    data_dir: Arc<DataDir>,
    config: PrivateServerConfig,
) -> Result<Prepared, PrivateServerError> {
    let binary = find(&data_dir, &config).await?;
    let password = match data_dir.secret(PASSWORD) {
        Some(password) => password,
        None => {
            let made =
                new_secret().map_err(|error| PrivateServerError::folder(&data_dir.folder, &error));
            let password = made?;
            data_dir.write(PASSWORD, password.as_bytes())?;
            password
        }
    };
    let sockets = data_dir.socket_folder(SOCKET)?;
    let socket = sockets.join(SOCKET);
    let settings = settings(&data_dir.folder, &socket, &password);
    let settings = data_dir.write("redis.conf", &settings)?;
    let process = program(&data_dir, &binary)
        .argument(settings)
        .ready_line(READY)
        .ends_with_server(Signal::SIGTERM);
    let path = percent_encoded(&socket, b"/");
    let socket = Socket::new(socket, format!("redis+unix://{path}?pass={password}"));
    Ok(Prepared { process, socket })
}

/// The first binary that runs.
async fn find(
    data_dir: &DataDir,
    config: &PrivateServerConfig,
) -> Result<PathBuf, PrivateServerError> {
    for folder in config.search.with_all(&PROGRAMS) {
        let binary = folder.join(PROGRAMS[0]);
        let spec = program(data_dir, &binary).argument("--version");
        let ran = Process::run(&spec, Stdio::null()).await;
        let (exit, _) = ran.map_err(|error| data_dir.not_started(NAME, &error))?;
        if exit == ProcessExit::Code(0) {
            return Ok(binary);
        }
    }
    Err(PrivateServerError::Missing {
        what: "the server of Redis (redis-server)",
        looked_in: config.search.folders().to_vec(),
        remedy: "install it ('apt-get install redis-server' on Debian and Ubuntu, 'brew install \
                 redis' on macOS), or configure the URL of another one"
            .to_owned(),
    })
}

/// The server, as its user, in its folder.
fn program(data_dir: &DataDir, binary: &Path) -> ProcessSpec {
    let spec = ProcessSpec::new(PROGRAMS[0], binary)
        .directory(&data_dir.folder)
        .environment("HOME", &data_dir.folder)
        .environment("LC_ALL", "C");
    data_dir.account.run(spec)
}

fn settings(folder: &Path, socket: &Path, password: &str) -> Vec<u8> {
    let mut text = SETTINGS.to_owned();
    for (key, path) in [("dir", folder), ("unixsocket", socket)] {
        // Writing to a string cannot fail.
        writeln!(text, "{key} {}", quoted(path)).ok();
    }
    writeln!(text, "requirepass {password}").ok();
    text.into_bytes()
}

/// A path as a value in the settings: every byte that could mean something else by its number.
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~ ".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests;
