//! Where Redis is and how to log in: one server, a master that sentinels know, or a cluster.

use std::path::{Path, PathBuf};

use deadpool_redis::redis::cluster::ClusterClient;
use deadpool_redis::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use deadpool_redis::redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    TlsCertificates, TlsMode,
};
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::client_record::ClientRecord;
use super::connect_error::connect_error;
use super::tcp;
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::regular_file;
use crate::kernel::url::{UrlFault, UrlForm};

/// The form of the URL of one server.
const FORM: UrlForm = UrlForm {
    schemes: &["redis", "rediss", "redis+unix", "unix"],
    authority_ends: &['/', '?', '#'],
    any_number_of_hosts: false,
};

/// Bytes of a file of authorities at most. Those of an operating system have some hundred KiB.
const CA_FILE_BYTES_MAX: u64 = 16 << 20;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// A name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A user and a password. Without a user, the password is that of the default user.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The name of an `ACL` user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// How to connect where no URL says it.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// The credentials for the master or for the nodes of the cluster.
    pub credentials: Credentials,
    /// The number of the database. A cluster has only database 0.
    pub database: u32,
    /// Whether to use TLS, for sentinels too.
    pub tls: bool,
}

/// Where Redis is, and how to connect to it.
#[derive(Clone)]
pub struct Server {
    /// Where it is.
    pub topology: Topology,
    /// The accepted authorities, a file in PEM that each connect reads; the operating system's when
    /// not set.
    pub ca_file: Option<PathBuf>,
}

/// Where Redis is.
#[derive(Clone)]
pub enum Topology {
    /// One server. Its URL is `redis://`, `rediss://` (TLS) or `unix://`, with the user, the password
    /// and the number of the database.
    One(ServerUrl),
    /// The server that the sentinels report as the master with this name.
    Sentinels {
        /// The sentinels.
        sentinels: Vec<Node>,
        /// The credentials for the sentinels.
        credentials: Credentials,
        /// The name of the master.
        master: String,
        /// How to connect to the master.
        options: ConnectOptions,
    },
    /// A cluster.
    Cluster {
        /// Some of its nodes. They report the other ones.
        nodes: Vec<Node>,
        /// How to connect to a node.
        options: ConnectOptions,
    },
}

impl From<Topology> for Server {
    fn from(topology: Topology) -> Self {
        Self {
            topology,
            ca_file: None,
        }
    }
}

impl Server {
    /// The driver's client of the cluster, whose connections have this record; `None` for another topology.
    pub(super) async fn cluster_client(
        &self,
        record: &ClientRecord,
    ) -> Result<Option<ClusterClient>, ConnectError> {
        let Topology::Cluster { nodes, options } = &self.topology else {
            return Ok(None);
        };
        let certificates = self.certificates().await?.filter(|_| options.tls);
        let build = || {
            let nodes = nodes.iter().map(|node| options.connection_info(node, None));
            let nodes: RedisResult<Vec<_>> = nodes.collect();
            let client = ClusterClient::builder(nodes?)
                .use_protocol(ProtocolVersion::RESP3)
                .tcp_settings(tcp::settings())
                .async_dns_resolver(record.clone())
                // What is sent again is decided in `cluster`.
                .retries(0);
            match certificates {
                Some(certificates) => client.certs(certificates).build(),
                None => client.build(),
            }
        };
        let client = build().map(Some);
        client.map_err(|error| connect_error(&error).at(&self.description()))
    }

    /// How to connect to the server that takes commands. For a cluster, `attempt` selects the node.
    pub(super) async fn connection_info(
        &self,
        attempt: usize,
    ) -> Result<ConnectionInfo, ConnectError> {
        let certificates = self.certificates().await?;
        let info = match &self.topology {
            Topology::One(url) => {
                let url = url.get().await?;
                with_certificates(parse(&url).map_err(ConnectError::from)?, certificates)
            }
            Topology::Sentinels {
                sentinels,
                credentials,
                master,
                options,
            } => find_master(sentinels, credentials, master, options, certificates).await,
            Topology::Cluster { nodes, options } => match nodes.get(attempt % nodes.len().max(1)) {
                Some(node) => options.connection_info(node, certificates),
                None => {
                    let message = "no node of the redis cluster is configured";
                    return Err(ConnectError::new(ConnectErrorKind::Missing, message));
                }
            },
        };
        let info = info.map_err(|error| connect_error(&error).at(&self.description()))?;
        Ok(with_settings(info))
    }

    /// How to connect to a node of the cluster that another node has named.
    pub(super) async fn node_info(&self, node: &Node) -> Result<ConnectionInfo, ConnectError> {
        let Topology::Cluster { options, .. } = &self.topology else {
            return self.connection_info(0).await;
        };
        let certificates = self.certificates().await?;
        let info = options.connection_info(node, certificates);
        Ok(with_settings(info.map_err(|error| connect_error(&error))?))
    }

    /// Hosts and ports, for messages.
    pub(super) fn description(&self) -> String {
        let list = |nodes: &[Node]| {
            let nodes = nodes.iter().map(|node| address(node, false).to_string());
            let nodes: Vec<_> = nodes.collect();
            nodes.join(", ")
        };
        match &self.topology {
            Topology::One(_) => "redis".to_owned(),
            Topology::Sentinels {
                sentinels, master, ..
            } => format!("{master} of the sentinels {}", list(sentinels)),
            Topology::Cluster { nodes, .. } => format!("the cluster of {}", list(nodes)),
        }
    }

    async fn certificates(&self) -> Result<Option<TlsCertificates>, ConnectError> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        let failed = |fault: &str| {
            let message = format!("{} {fault}", path.display());
            ConnectError::new(ConnectErrorKind::Tls, message)
        };
        let file = path.clone();
        let pem = spawn_blocking(move || regular_file::read(&file, CA_FILE_BYTES_MAX)).await;
        let pem = pem.unwrap_or_else(|error| Err(error.into()));
        let pem = pem.map_err(|error| failed("cannot be read").caused_by(error))?;
        check_pem(&pem).map_err(failed)?;
        Ok(Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        }))
    }
}

impl ConnectOptions {
    fn connection_info(
        &self,
        node: &Node,
        certificates: Option<TlsCertificates>,
    ) -> RedisResult<ConnectionInfo> {
        let info = address(node, self.tls).into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_db(self.database.into());
        if let Some(username) = &self.credentials.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.credentials.password {
            settings = settings.set_password(password);
        }
        with_certificates(info.set_redis_settings(settings), certificates)
    }
}

/// Checks whether the URL of one server is usable, without connecting. TLS without verification is not
/// accepted.
///
/// # Errors
/// The first fault of the URL.
pub fn check_url(url: &str) -> Result<(), UrlFault> {
    parse(url).map(drop)
}

/// Checks whether the file holds certificates in PEM.
///
/// # Errors
/// The text completes the sentence "the file …".
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    let pem = regular_file::read(path, CA_FILE_BYTES_MAX)
        .map_err(|error| format!("cannot be read: {error}"))?;
    check_pem(&pem).map_err(str::to_owned)
}

fn check_pem(pem: &[u8]) -> Result<(), &'static str> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM"),
        Ok(_) => Ok(()),
        Err(_) => Err("is not valid PEM"),
    }
}

fn parse(url: &str) -> Result<ConnectionInfo, UrlFault> {
    FORM.check(url)?;
    // The driver's message could quote a part of the URL.
    let info = url.into_connection_info().map_err(|_| {
        UrlFault::Unusable("check the host, and that the database is given by its number")
    })?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(UrlFault::Unusable(
            "remove #insecure, and name the authority in tls_ca_file",
        )),
        _ => Ok(info),
    }
}

fn address(node: &Node, tls: bool) -> ConnectionAddr {
    let host = node.host.clone();
    if tls {
        ConnectionAddr::TcpTls {
            host,
            port: node.port,
            insecure: false,
            tls_params: None,
        }
    } else {
        ConnectionAddr::Tcp(host, node.port)
    }
}

/// The settings of every connection.
fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    // With RESP3 the driver reports a lost connection at once, not only at its next use.
    let settings = info.redis_settings().clone();
    let settings = settings
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("headroom", env!("CARGO_PKG_VERSION"));
    info.set_redis_settings(settings)
        .set_tcp_settings(tcp::settings())
}

fn with_certificates(
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
) -> RedisResult<ConnectionInfo> {
    match (certificates, info.addr()) {
        (Some(certificates), ConnectionAddr::TcpTls { .. }) => {
            let client = Client::build_with_tls(info, certificates)?;
            Ok(client.get_connection_info().clone())
        }
        _ => Ok(info),
    }
}

/// Asks the sentinels for the master.
async fn find_master(
    sentinels: &[Node],
    credentials: &Credentials,
    master: &str,
    options: &ConnectOptions,
    certificates: Option<TlsCertificates>,
) -> RedisResult<ConnectionInfo> {
    let sentinels = sentinels.iter().map(|node| address(node, options.tls));
    let mut client = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
        .set_client_to_redis_db(options.database.into())
        .set_client_to_redis_tcp_settings(tcp::settings())
        .set_client_to_sentinel_tcp_settings(tcp::settings());
    if let Some(username) = &credentials.username {
        client = client.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &credentials.password {
        client = client.set_client_to_sentinel_password(password);
    }
    if let Some(username) = &options.credentials.username {
        client = client.set_client_to_redis_username(username);
    }
    if let Some(password) = &options.credentials.password {
        client = client.set_client_to_redis_password(password);
    }
    if options.tls {
        client = client.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates {
            client = client
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    let client = client.build()?.async_get_client().await?;
    Ok(client.get_connection_info().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_noticed_by_the_kernel_and_nothing_is_held_back() {
        let url = ServerUrl::Configured("redis://127.0.0.1:1".to_owned());
        let server = Server::from(Topology::One(url));
        let info = server.connection_info(0).await.unwrap();
        let settings = info.tcp_settings();
        assert!(settings.nodelay());
        assert!(settings.keepalive().is_some());
        let most = std::time::Duration::from_secs(60);
        assert!(settings.user_timeout().is_some_and(|time| time < most));
    }

    #[test]
    fn unusable_urls_are_refused_by_their_form() {
        for url in [
            "redis://host",
            "rediss://user:p%40ss@host:6380/3",
            "unix:///run/redis.sock?pass=word",
            "redis+unix:///run/redis.sock",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "http://host",
            "redis://host:99999",
            "redis://host/first",
            "rediss://host/#insecure",
            "redis://u:12#x@host",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }
}
