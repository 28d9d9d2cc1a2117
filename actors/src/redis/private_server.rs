//! A private Redis, used when no URL is configured.
//!
//! It is a store, not a cache. It writes each acknowledged command to the disk (`appendfsync always`),
//! evicts nothing (`noeviction`), and ends when it cannot write. After a crash it drops an incomplete
//! last command, which was never acknowledged.
//!
//! Its settings are written before each start. They contain the password, so only its user can read
//! them. [`private_server`](crate::kernel::private_server) describes who can connect.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::FutureExt;
use nix::sys::signal::Signal;

use crate::kernel::private_server::{
    DataDir, PreparedServer, PrivateServerError, Programs, SearchPath, ServerKind, Socket,
    new_password, percent_encoded,
};

/// A private Redis. Its URL has the scheme `redis+unix:` and contains the password.
pub static PRIVATE_SERVER: ServerKind = ServerKind {
    name: "redis",
    product: "Redis",
    programs: &["redis-server"],
    packages: ["redis-server", "redis"],
    // An idle server, and the first few megabytes of data.
    estimated_bytes: 16 << 20,
    working_folders: &[],
    end_signals: &[Signal::SIGTERM],
    find: |data_dir, search| find_programs(data_dir, search).boxed(),
    prepare: |data_dir, search| prepare(data_dir, search).boxed(),
};

/// The file of the socket.
const SOCKET: &str = "redis.sock";

/// The part of the ready line that is the same in all versions.
const READY: &str = "eady to accept connections";

/// The settings that do not depend on the data folder.
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

async fn prepare(
    data_dir: Arc<DataDir>,
    search: SearchPath,
) -> Result<PreparedServer, PrivateServerError> {
    let programs = find_programs(&data_dir, &search).await?.folder;
    let password = match data_dir.password() {
        Some(password) => password,
        None => {
            let password = new_password();
            data_dir.write_password(&password)?;
            password
        }
    };
    let socket = data_dir.socket_folder(SOCKET)?.join(SOCKET);
    let settings = settings(&data_dir.folder, &socket, &password);
    let settings = data_dir.write("redis.conf", settings.as_bytes())?;
    let process = data_dir
        .program(&programs.join(PRIVATE_SERVER.programs[0]))
        .argument(settings)
        .ready_line(READY)
        .ends_with_server(Signal::SIGTERM);
    let path = percent_encoded(&socket).replace("%2F", "/");
    let socket = Socket::new(socket, format!("redis+unix://{path}?pass={password}"));
    Ok(PreparedServer { process, socket })
}

async fn find_programs(
    data_dir: &DataDir,
    search: &SearchPath,
) -> Result<Programs, PrivateServerError> {
    PRIVATE_SERVER
        .find_programs(search, data_dir, |_, _| true)
        .await
}

fn settings(folder: &Path, socket: &Path, password: &str) -> String {
    format!(
        "{SETTINGS}dir {}\nunixsocket {}\nrequirepass {password}\n",
        quoted(folder),
        quoted(socket)
    )
}

/// A path as a value in the settings, which have the escapes of Rust.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.as_os_str().as_bytes().escape_ascii())
}

#[cfg(test)]
mod tests;
