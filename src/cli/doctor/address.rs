//! The server's own addresses: free, or in use by which process; and what a server says that runs there.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};
use tokio::task::spawn_blocking;

use super::check::{Check, Group};
use super::local_url;
use crate::cli::Failure;
use crate::cli::client::{Bounds, Client, ClientError};
use crate::cli::server_url::ServerUrl;
use crate::settings::Settings;

const GROUP: Group = Group::Address;

/// How long a server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long opening a connection to it may take. It is shorter, so that a server that accepts and does not
/// answer can be told from an address that leads nowhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// What is found at a URL.
enum Found {
    Headroom(Metadata),
    /// There is no connection, and why.
    Nothing(String),
    /// There is a connection and no answer.
    Silence,
    /// The answer is not one of a Headroom server.
    AnotherProgram,
}

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
    let is_running = matches!(own, Found::Headroom(_)) && listen.port() != 0;
    let mut checks = vec![
        address("server.listen", listen, is_running).await,
        address("server.admin_listen", admin, is_running).await,
    ];
    match (url, own) {
        (Some(url), _) => match ask(&url).await {
            Found::Headroom(metadata) => checks.extend(running(&url, &metadata).await),
            missing => checks.extend(no_server(&url, missing)),
        },
        (None, Found::Headroom(metadata)) if is_running => {
            checks.extend(running(&local_url(listen), &metadata).await);
        }
        // The check of the address has the rest.
        (None, Found::Silence) => checks.extend(no_server(&local_url(listen), Found::Silence)),
        (None, _) => {}
    }
    checks
}

/// The check of a server that should be at `url`.
fn no_server(url: &ServerUrl, found: Found) -> Option<Check> {
    let (found, remedy) = match found {
        Found::Headroom(_) => return None,
        Found::Nothing(reason) => (
            format!("nothing can be reached at {url}: {reason}"),
            "start it there, or correct --url or HEADROOM_URL",
        ),
        Found::Silence => (
            format!(
                "something accepts connections at {url} and has not answered within {ANSWER_WITHIN:?}"
            ),
            "if it is a Headroom, it hangs: its log has the cause; restart it",
        ),
        Found::AnotherProgram => (
            format!("what answers at {url} is no Headroom"),
            "correct --url or HEADROOM_URL, or stop that program",
        ),
    };
    let check = Check::failure(GROUP, "server", found);
    Some(
        check
            .would_fail("commands that ask this server fail")
            .remedy(remedy),
    )
}

fn client(url: &ServerUrl, timeout: Duration) -> Result<Client, Failure> {
    Client::new(url, Bounds { timeout }, false)
}

/// What is at `url`, by what it says about itself.
async fn ask(url: &ServerUrl) -> Found {
    let answer = async {
        let client = client(url, CONNECT_WITHIN)?;
        let answer = client.send_within(Method::GET, "/v2", None, ANSWER_WITHIN);
        Ok(answer.await?.read::<Metadata>()?.content)
    };
    match answer.await {
        Ok(metadata) if metadata.name == "headroom" => Found::Headroom(metadata),
        Err(Failure::NoServer(ClientError::TimedOut { .. })) => Found::Silence,
        Err(Failure::NoServer(ClientError::Unreachable { reason, .. })) => Found::Nothing(reason),
        Err(Failure::Client(error)) => Found::Nothing(error.to_string()),
        Ok(_) | Err(_) => Found::AnotherProgram,
    }
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
    let Ok(client) = client(url, ANSWER_WITHIN) else {
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
