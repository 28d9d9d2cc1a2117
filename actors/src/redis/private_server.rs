//! The private servers of Redis, used when no URL is configured: one for each role.
//!
//! Each has a keyspace, memory and a data folder of its own, so that a full cache and slow subscribers
//! never make a write of the primary fail.
//! - The primary is a store. It writes each acknowledged command to the disk (`appendfsync always`),
//!   evicts nothing (`noeviction`), and ends when it cannot write. After a crash it drops an incomplete
//!   last command, which was never acknowledged.
//! - The cache evicts what was not used for longest, and writes nothing to the disk.
//! - The server of messages keeps nothing, and disconnects a subscriber that does not read.
//!
//! Their settings are written before each start. They contain the password, so only their user can read
//! them. [`private_server`](crate::kernel::private_server) describes who can connect.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::FutureExt;
use nix::sys::signal::Signal;

use super::role::Role;
use crate::kernel::private_server::{
    DataDir, PreparedServer, PrivateServerError, Programs, SearchPath, ServerKind, Socket,
    new_password, percent_encoded,
};

/// The server of the primary, and what the others have in common with it.
static PRIMARY: ServerKind = ServerKind {
    name: "redis",
    child: "server",
    user: "redis",
    product: "Redis",
    programs: &["redis-server"],
    packages: ["redis-server", "redis"],
    // An idle server, and the first few megabytes of data.
    estimated_bytes: 16 << 20,
    working_folders: &[],
    end_signals: &[Signal::SIGTERM],
    find: |data_dir, search| find_programs(data_dir, search).boxed(),
    prepare: |data_dir, search| prepare(PRIMARY_SETTINGS, data_dir, search).boxed(),
};

static CACHE: ServerKind = ServerKind {
    name: "redis-cache",
    child: "server-cache",
    prepare: |data_dir, search| prepare(CACHE_SETTINGS, data_dir, search).boxed(),
    ..PRIMARY
};

static PUBSUB: ServerKind = ServerKind {
    name: "redis-pubsub",
    child: "server-pubsub",
    prepare: |data_dir, search| prepare(PUBSUB_SETTINGS, data_dir, search).boxed(),
    ..PRIMARY
};

/// The private server of a role. Its URL has the scheme `redis+unix:` and contains the password.
pub fn private_server(role: Role) -> &'static ServerKind {
    match role {
        Role::Primary => &PRIMARY,
        Role::Cache => &CACHE,
        Role::PubSub => &PUBSUB,
    }
}

/// The file of the socket.
const SOCKET: &str = "redis.sock";

/// The part of the ready line that is the same in all versions.
const READY: &str = "eady to accept connections";

/// The settings of all roles.
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
save \"\"
stop-writes-on-bgsave-error no
";

const PRIMARY_SETTINGS: &str = "\
maxmemory 64mb
maxmemory-policy noeviction
appendonly yes
appendfsync always
aof-load-truncated yes
no-appendfsync-on-rewrite no
auto-aof-rewrite-min-size 16mb
";

const CACHE_SETTINGS: &str = "\
maxmemory 64mb
maxmemory-policy allkeys-lru
appendonly no
";

/// A subscriber is disconnected with 8 MB of unread messages, or with 4 MB for 10 s. It reconnects and
/// knows that messages are missing.
const PUBSUB_SETTINGS: &str = "\
maxmemory 32mb
maxmemory-policy noeviction
appendonly no
client-output-buffer-limit pubsub 8mb 4mb 10
";

async fn prepare(
    of_role: &str,
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
    let settings = settings(of_role, &data_dir.folder, &socket, &password);
    let settings = data_dir.write("redis.conf", settings.as_bytes())?;
    let process = data_dir
        .program(&programs.join(PRIMARY.programs[0]))
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
    PRIMARY.find_programs(search, data_dir, |_, _| true).await
}

fn settings(of_role: &str, folder: &Path, socket: &Path, password: &str) -> String {
    format!(
        "{SETTINGS}{of_role}dir {}\nunixsocket {}\nrequirepass {password}\n",
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
