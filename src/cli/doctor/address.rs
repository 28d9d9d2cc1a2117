//! The server's own addresses: free, or in use by which process; and what a server says that runs there.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde::Deserialize;
use socket2::{Domain, Socket, Type};
use tokio::task::spawn_blocking;

use super::check::{Check, Group};
use super::local_url;
use crate::cli::Failure;
use crate::cli::client::{Bounds, Client};
use crate::cli::server_url::ServerUrl;
use crate::settings::Settings;

const GROUP: Group = Group::Address;

/// How long a server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What a server says about itself at `/v2`.
#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct Connections {
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    name: String,
    status: String,
    last_error: Option<String>,
}

pub(super) async fn addresses(settings: Settings, url: Option<ServerUrl>) -> Vec<Check> {
    let (listen, admin) = (settings.server.listen, settings.server.admin_listen);
    let own = ask(&local_url(listen)).await;
    let own = own.filter(|_| listen.port() != 0);
    let mut checks = vec![
        address("server.listen", listen, own.is_some()).await,
        address("server.admin_listen", admin, own.is_some()).await,
    ];
    match (url, own) {
        (Some(url), _) => match ask(&url).await {
            Some(metadata) => checks.extend(running(&url, &metadata).await),
            None => {
                let check =
                    Check::failure(GROUP, "server", format!("no Headroom answers at {url}"))
                        .would_fail("commands that ask this server fail")
                        .remedy("start it there, or correct --url or HEADROOM_URL");
                checks.push(check);
            }
        },
        (None, Some(metadata)) => checks.extend(running(&local_url(listen), &metadata).await),
        (None, None) => {}
    }
    checks
}

fn client(url: &ServerUrl) -> Result<Client, Failure> {
    let timeout = ANSWER_WITHIN;
    Client::new(url, Bounds { timeout }, false)
}

/// What the server at `url` says about itself, if it is a Headroom server.
async fn ask(url: &ServerUrl) -> Option<Metadata> {
    let answer = client(url).ok()?.get("/v2").await.ok()?;
    let metadata: Metadata = answer.read().ok()?.content;
    (metadata.name == "headroom").then_some(metadata)
}

/// Whether the server could listen on the address of the setting `name`. `is_running` if a Headroom
/// server answers on the main one.
async fn address(name: &'static str, address: SocketAddr, is_running: bool) -> Check {
    if address.port() == 0 {
        return Check::ok(GROUP, name, format!("{address}: a free port is chosen"));
    }
    let tried = spawn_blocking(move || bind(address)).await;
    let error = match tried {
        Ok(Ok(())) => return Check::ok(GROUP, name, format!("{address} is free")),
        Ok(Err(error)) => error,
        Err(error) => return Check::skipped(GROUP, name, error.to_string()),
    };
    let failure = |found: String| {
        Check::failure(GROUP, name, found).would_fail("`headroom serve` does not start")
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        let remedy = match error.kind() {
            io::ErrorKind::AddrNotAvailable => "name an address of this machine",
            io::ErrorKind::PermissionDenied => "choose a port above 1023",
            _ => "choose another address",
        };
        return failure(format!("{address}: {error}")).remedy(remedy);
    }
    let user = spawn_blocking(move || user_of(address))
        .await
        .ok()
        .flatten();
    let by = user.as_deref().unwrap_or("a process of another user");
    let found = format!("{address} is in use by {by}");
    match is_running {
        true => Check::ok(GROUP, name, found),
        false => failure(found).remedy(format!("stop that process, or set {name} to another port")),
    }
}

/// Binds the address and leaves it again. No connection is accepted meanwhile.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As for a listener: connections of an earlier server that are still closing do not matter.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The name and the id of a process that listens on the port of `address`.
fn user_of(address: SocketAddr) -> Option<String> {
    let sockets = listening(address.port());
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let name = process.file_name();
        let Some(id) = name
            .to_str()
            .filter(|id| id.bytes().all(|c| c.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        let mut inodes = links.filter_map(|link| {
            let text = std::str::from_utf8(link.as_os_str().as_bytes()).ok()?;
            let inode = text.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        });
        if inodes.any(|inode| sockets.contains(&inode)) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", program.trim()));
        }
    }
    None
}

/// The inodes of the sockets that listen on `port`.
fn listening(port: u16) -> HashSet<String> {
    let mut inodes = HashSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            // sl, local address, remote address, state (0A: it listens), five more, inode
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) =
                (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let local_port = local.rsplit_once(':').map(|(_, port)| port);
            if local_port.and_then(|port| u16::from_str_radix(port, 16).ok()) == Some(port) {
                inodes.insert((*inode).to_owned());
            }
        }
    }
    inodes
}

/// What a running server says.
async fn running(url: &ServerUrl, metadata: &Metadata) -> Vec<Check> {
    let own = env!("CARGO_PKG_VERSION");
    let found = format!("Headroom {} at {url}", metadata.version);
    let mut checks = vec![match metadata.version == own {
        true => Check::ok(GROUP, "server", found),
        false => Check::warning(GROUP, "server", found)
            .would_fail(format!(
                "commands of this version, {own}, may not understand its answers"
            ))
            .remedy("use the program of the server's version"),
    }];
    let Ok(client) = client(url) else {
        return checks;
    };
    checks.push(match client.get("/v2/health/ready").await {
        Ok(_) => Check::ok(GROUP, "readiness", "ready"),
        Err(error) => Check::failure(GROUP, "readiness", error.to_string())
            .would_fail("the server should not get requests now")
            .remedy("the server's log has the cause"),
    });
    let pools = client.get("/api/performance/connections/health").await;
    match pools.and_then(|answer| answer.read::<Connections>()) {
        Ok(connections) => checks.extend(connections.content.pools.into_iter().map(pool)),
        Err(error) => checks.push(Check::skipped(GROUP, "pools", error.to_string())),
    }
    checks
}

fn pool(pool: Pool) -> Check {
    let Pool {
        name,
        status,
        last_error,
    } = pool;
    let found = match last_error {
        Some(error) => format!("{status}: {error}"),
        None => status.clone(),
    };
    let shown = format!("pool {name}");
    match &*status {
        "down" => Check::failure(GROUP, &shown, found)
            .would_fail("requests that need it get a 503")
            .remedy(format!(
                "`curl -X POST .../api/pools/{name}/probe` tries it again"
            )),
        "degraded" => {
            Check::warning(GROUP, &shown, found).would_fail("requests may be slow or fail")
        }
        _ => Check::ok(GROUP, &shown, found),
    }
}
