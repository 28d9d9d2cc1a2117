//! Opens connections: to one server, to whichever the sentinels say is the master, or to a cluster.
//!
//! The driver's managers are made anew for each connect: the place of the server is asked for again,
//! and names are resolved again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool::managed::Manager as _;
use deadpool_redis::redis::aio::SendError;
use deadpool_redis::redis::sentinel::{
    SentinelClient, SentinelNodeConnectionInfo, SentinelServerType,
};
use deadpool_redis::redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, ServerErrorKind, TlsMode, pipe,
};
use deadpool_redis::{Manager, cluster};
use futures_util::future::{BoxFuture, FutureExt};

use super::link::{Link, Wire};
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind, Locate};

/// What a connection costs: the server's client structure with its buffers, and ours.
const BYTES_PER_CONNECTION: u64 = 64 * 1024;

/// Where to connect to. URLs are `redis://`, `rediss://` (TLS) or `unix://`, with user, password and
/// database as the driver reads them.
#[derive(Clone)]
pub enum Server {
    /// One server.
    One(Arc<dyn Locate>),
    /// The master that sentinels name.
    Sentinels {
        /// URLs of the sentinels.
        urls: Vec<String>,
        /// The name under which they watch the master.
        master: String,
        /// User, password, database and TLS of the master, as a URL whose address is not looked at.
        node: Option<String>,
    },
    /// A cluster.
    Cluster {
        /// URLs of some of its nodes.
        urls: Vec<String>,
    },
}

impl fmt::Debug for Server {
    /// URLs may hold passwords: none is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(_) => f.write_str("One"),
            Self::Sentinels { master, .. } => write!(f, "Sentinels({master})"),
            Self::Cluster { urls } => write!(f, "Cluster({} nodes)", urls.len()),
        }
    }
}

/// Opens connections to a [`Server`].
#[derive(Debug)]
pub struct Connector {
    server: Server,
}

impl Connector {
    /// A connector to `server`.
    pub fn new(server: Server) -> Self {
        Self { server }
    }
}

/// Where the one server is that takes commands for `server`; for a cluster one of its nodes.
pub(super) async fn locate(server: &Server) -> Result<ConnectionInfo, ConnectError> {
    let info = match server {
        Server::One(locate) => parse(&locate.locate().await?)?,
        Server::Sentinels { urls, master, node } => {
            let node = node.as_deref().map(parse).transpose()?;
            let sentinels = urls
                .iter()
                .map(|url| parse(url))
                .collect::<Result<_, _>>()?;
            find_master(sentinels, master, node).await?
        }
        Server::Cluster { urls } => parse(urls.first().map_or("", String::as_str))?,
    };
    // With the newer protocol the end of a connection is told at once, and not at its next use.
    let settings = info.redis_settings().clone();
    Ok(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

fn parse(url: &str) -> Result<ConnectionInfo, ConnectError> {
    // The driver's words could hold a part of the URL.
    let wrong = |_| ConnectError::new(ConnectErrorKind::Protocol, "the URL of redis is not valid");
    url.into_connection_info().map_err(wrong)
}

async fn find_master(
    sentinels: Vec<ConnectionInfo>,
    master: &str,
    node: Option<ConnectionInfo>,
) -> Result<ConnectionInfo, ConnectError> {
    let node = node.map(|node| {
        let info = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(node.redis_settings().clone());
        match node.addr() {
            ConnectionAddr::TcpTls {
                insecure: false, ..
            } => info.set_tls_mode(TlsMode::Secure),
            _ => info,
        }
    });
    let kind = SentinelServerType::Master;
    let client = SentinelClient::build(sentinels, master, node, kind);
    let mut client = client.map_err(|error| explain(&error))?;
    let found = client.async_get_client().await;
    let found = found.map_err(|error| explain(&error))?;
    Ok(found.get_connection_info().clone())
}

async fn open(server: &Server) -> Result<Link, ConnectError> {
    let dead = Arc::new(AtomicBool::new(false));
    if let Server::Cluster { urls } = server {
        let manager = cluster::Manager::new(urls.clone(), false);
        let manager = manager.map_err(|error| explain(&error))?;
        let wire = manager.create().await.map_err(|error| explain(&error))?;
        return Ok(Link::new(Wire::Cluster(wire), dead));
    }
    let info = locate(server).await?;
    let told = Arc::clone(&dead);
    let listen = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            told.store(true, Ordering::Release);
        }
        Ok::<(), SendError>(())
    };
    // Every call has a deadline of its own, and so has the connect.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(listen);
    let manager = Manager::new_with_config(info, config).map_err(|error| explain(&error))?;
    let wire = manager.create().await.map_err(|error| explain(&error))?;
    Ok(Link::new(Wire::One(wire), dead))
}

/// Says what kept us from connecting, in words without a secret.
pub(super) fn explain(error: &RedisError) -> ConnectError {
    let code = error.code().unwrap_or_default();
    let too_many = || {
        let detail = error.detail().unwrap_or_default();
        detail.contains("max number of clients")
    };
    let (kind, words) = match error.kind() {
        ErrorKind::AuthenticationFailed => {
            (ConnectErrorKind::Denied, "redis refused user or password")
        }
        ErrorKind::Server(ServerErrorKind::NoPerm) => (
            ConnectErrorKind::Denied,
            "redis allows this user too little",
        ),
        _ if matches!(code, "NOAUTH" | "WRONGPASS") => {
            (ConnectErrorKind::Denied, "redis refused user or password")
        }
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain,
        ) => (ConnectErrorKind::Refused, "redis is not ready yet"),
        ErrorKind::Server(_) if too_many() => {
            (ConnectErrorKind::Refused, "redis has too many connections")
        }
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::ClusterConnectionNotFound => (
            ConnectErrorKind::Unreachable,
            "no master of redis was found",
        ),
        ErrorKind::RESP3NotSupported => {
            (ConnectErrorKind::Protocol, "redis is older than version 6")
        }
        _ if error.is_timeout() => (ConnectErrorKind::TimedOut, "redis did not answer in time"),
        ErrorKind::Io => (ConnectErrorKind::Unreachable, "redis cannot be reached"),
        _ => (
            ConnectErrorKind::Protocol,
            "redis did not answer as it should",
        ),
    };
    ConnectError::new(kind, words).caused_by(error.clone())
}

impl Connect for Connector {
    type Connection = Link;

    fn connect(&self) -> BoxFuture<'static, Result<Link, ConnectError>> {
        let server = self.server.clone();
        async move { open(&server).await }.boxed()
    }

    fn check(&self, link: Arc<Link>) -> BoxFuture<'static, Result<(), ConnectError>> {
        async move {
            // Behind an open `MULTI` the answer would be another, and the connection is closed.
            let mut ping = pipe();
            ping.cmd("UNWATCH").ignore().cmd("PING");
            let answer = ping.query_async::<(String,)>(&mut link.wire()).await;
            let (answer,) = answer.map_err(|error| explain(&error))?;
            if answer == "PONG" {
                return Ok(());
            }
            let words = "redis did not answer as it should";
            Err(ConnectError::new(ConnectErrorKind::Protocol, words))
        }
        .boxed()
    }

    fn is_closed(&self, link: &Link) -> bool {
        link.is_dead()
    }

    fn clean(&self, link: Arc<Link>) -> BoxFuture<'static, Result<(), ConnectError>> {
        self.check(link)
    }

    fn bytes_per_connection(&self) -> u64 {
        BYTES_PER_CONNECTION
    }
}
