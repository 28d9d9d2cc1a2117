//! Where Redis is, and how to get in: one server, whichever the sentinels say is the master, or a
//! cluster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deadpool_redis::redis::cluster::ClusterClient;
use deadpool_redis::redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use deadpool_redis::redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    TlsCertificates, TlsMode,
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::refusal::explain;
use crate::kernel::pool::{ConnectError, ConnectErrorKind, Locate};
use crate::kernel::url::{UrlFault, UrlForm};

/// What URLs of one server look like.
const FORM: UrlForm = UrlForm {
    schemes: &["redis", "rediss", "redis+unix", "unix"],
    authority_ends: &['/', '?', '#'],
    any_number_of_hosts: false,
};

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A user and a password; without a user the default one is meant.
#[derive(Clone, Default)]
pub struct Login {
    /// The user, as `ACL` knows it.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// How to get in where no URL says so.
#[derive(Clone, Default)]
pub struct Access {
    /// Who we are.
    pub login: Login,
    /// The number of the database. A cluster has only the first, 0.
    pub database: u32,
    /// Whether the channel is secured, to sentinels too.
    pub tls: bool,
}

/// Where Redis is, and how to get in.
#[derive(Clone)]
pub struct Server {
    place: Topology,
    /// Whose certificates are believed, in PEM; those that the system believes when not set.
    ca_file: Option<PathBuf>,
}

#[derive(Clone)]
enum Topology {
    One(Arc<dyn Locate>),
    Sentinels {
        sentinels: Vec<Node>,
        login: Login,
        master: String,
        access: Access,
    },
    Cluster {
        nodes: Vec<Node>,
        access: Access,
    },
}

impl Server {
    /// One server, at a URL: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and
    /// database as the driver reads them.
    pub fn one(locate: Arc<dyn Locate>) -> Self {
        Self::at(Topology::One(locate))
    }

    /// The server that `sentinels`, who take `login`, name as the master called `master`.
    pub fn sentinels(
        sentinels: Vec<Node>,
        login: Login,
        master: impl Into<String>,
        access: Access,
    ) -> Self {
        Self::at(Topology::Sentinels {
            sentinels,
            login,
            master: master.into(),
            access,
        })
    }

    /// The cluster that `nodes` belong to; the others are learned from them.
    pub fn cluster(nodes: Vec<Node>, access: Access) -> Self {
        Self::at(Topology::Cluster { nodes, access })
    }

    fn at(place: Topology) -> Self {
        Self {
            place,
            ca_file: None,
        }
    }

    /// Believes certificates from the authorities in this file, in PEM, and no others. It is read at
    /// each connect.
    #[must_use]
    pub fn trusting(mut self, ca_file: Option<PathBuf>) -> Self {
        self.ca_file = ca_file;
        self
    }

    /// The way to the cluster, if it is one.
    pub(super) async fn as_cluster(&self) -> Result<Option<ClusterClient>, ConnectError> {
        let Topology::Cluster { nodes, access } = &self.place else {
            return Ok(None);
        };
        let trust = self.trust().await?;
        let client = cluster(nodes, access, trust);
        let client = client.map_err(|error| explain(&error).at(&self.name()))?;
        Ok(Some(client))
    }

    /// Where the one server is that takes commands; for a cluster one of its nodes, and another one
    /// at each `turn`.
    pub(super) async fn find(&self, turn: usize) -> Result<ConnectionInfo, ConnectError> {
        let trust = self.trust().await?;
        let info = match &self.place {
            Topology::One(locate) => {
                let url = locate.locate().await?;
                with_trust(parse(&url).map_err(ConnectError::from)?, trust)
            }
            Topology::Sentinels {
                sentinels,
                login,
                master,
                access,
            } => find_master(sentinels, login, master, access, trust).await,
            Topology::Cluster { nodes, access } => match nodes.get(turn % nodes.len().max(1)) {
                Some(node) => access.info(node, trust),
                None => return Err(ConnectError::new(ConnectErrorKind::Missing, NO_NODES)),
            },
        };
        let info = info.map_err(|error| explain(&error).at(&self.name()))?;
        // With the newer protocol the end of a connection is told at once, and not at its next use.
        let settings = info.redis_settings().clone();
        Ok(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
    }

    /// Where it is looked for, for messages: hosts and ports.
    pub(super) fn name(&self) -> String {
        let list = |nodes: &[Node]| {
            let nodes = nodes.iter().map(|node| address(node, false).to_string());
            let nodes: Vec<_> = nodes.collect();
            nodes.join(", ")
        };
        match &self.place {
            Topology::One(_) => "redis".to_owned(),
            Topology::Sentinels {
                sentinels, master, ..
            } => format!("{master} of the sentinels {}", list(sentinels)),
            Topology::Cluster { nodes, .. } => format!("the cluster of {}", list(nodes)),
        }
    }

    async fn trust(&self) -> Result<Option<TlsCertificates>, ConnectError> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        let pem = tokio::fs::read(path).await.map_err(|error| {
            let words = format!("{} cannot be read", path.display());
            ConnectError::new(ConnectErrorKind::Tls, words).caused_by(error)
        })?;
        if let Err(words) = check_authorities(&pem) {
            let words = format!("{} {words}", path.display());
            return Err(ConnectError::new(ConnectErrorKind::Tls, words));
        }
        Ok(Some(TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        }))
    }
}

/// How often a command is sent again when its node is away or has lost the slot, and how long to
/// wait in between. Callers are told sooner by their deadline.
const CLUSTER_RETRIES: u32 = 6;
const CLUSTER_RETRY_WAIT_MAX_MS: u64 = 200;

/// What is said of a cluster without nodes, which no settings allow.
const NO_NODES: &str = "no node of redis is named";

impl Access {
    fn info(&self, node: &Node, trust: Option<TlsCertificates>) -> RedisResult<ConnectionInfo> {
        let info = address(node, self.tls).into_connection_info()?;
        let mut settings = info.redis_settings().clone().set_db(self.database.into());
        if let Some(username) = &self.login.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.login.password {
            settings = settings.set_password(password);
        }
        with_trust(info.set_redis_settings(settings), trust)
    }
}

impl fmt::Debug for Server {
    /// URLs and logins hold passwords: none is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Topology::One(_) => f.write_str("One"),
            Topology::Sentinels { master, .. } => write!(f, "Sentinels({master})"),
            Topology::Cluster { nodes, .. } => write!(f, "Cluster({} nodes)", nodes.len()),
        }
    }
}

/// Checks whether the URL of one server can be used, without asking anybody. One that asks for TLS
/// without verification cannot.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), UrlFault> {
    parse(url).map(drop)
}

/// Whether the file holds the certificates of authorities, in PEM; if not, what is wrong with it.
///
/// # Errors
/// Completes "the file …".
pub fn check_authorities_in(path: &Path) -> Result<(), String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    check_authorities(&pem).map_err(str::to_owned)
}

fn check_authorities(pem: &[u8]) -> Result<(), &'static str> {
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificate.is_err() {
            return Err("is not in the form of PEM");
        }
        found = true;
    }
    if found {
        Ok(())
    } else {
        Err("holds no certificate in PEM")
    }
}

fn parse(url: &str) -> Result<ConnectionInfo, UrlFault> {
    FORM.check(url)?;
    // The driver's words could hold a part of the URL.
    let info = url.into_connection_info().map_err(|_| {
        UrlFault::Unusable("check the host, and that the number of the database is one")
    })?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => Err(UrlFault::Unusable(
            "leave out #insecure, and name the authority in tls_ca_file",
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

fn with_trust(info: ConnectionInfo, trust: Option<TlsCertificates>) -> RedisResult<ConnectionInfo> {
    match (trust, info.addr()) {
        (Some(trust), ConnectionAddr::TcpTls { .. }) => {
            let client = Client::build_with_tls(info, trust)?;
            Ok(client.get_connection_info().clone())
        }
        _ => Ok(info),
    }
}

fn cluster(
    nodes: &[Node],
    access: &Access,
    trust: Option<TlsCertificates>,
) -> RedisResult<ClusterClient> {
    let nodes: RedisResult<Vec<_>> = nodes.iter().map(|node| access.info(node, None)).collect();
    let mut client = ClusterClient::builder(nodes?)
        .use_protocol(ProtocolVersion::RESP3)
        .retries(CLUSTER_RETRIES)
        .max_retry_wait(CLUSTER_RETRY_WAIT_MAX_MS)
        .min_retry_wait(1);
    if let Some(trust) = trust.filter(|_| access.tls) {
        client = client.certs(trust);
    }
    client.build()
}

async fn find_master(
    sentinels: &[Node],
    login: &Login,
    master: &str,
    access: &Access,
    trust: Option<TlsCertificates>,
) -> RedisResult<ConnectionInfo> {
    let sentinels = sentinels.iter().map(|node| address(node, access.tls));
    let mut client = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
        .set_client_to_redis_db(access.database.into());
    if let Some(username) = &login.username {
        client = client.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &login.password {
        client = client.set_client_to_sentinel_password(password);
    }
    if let Some(username) = &access.login.username {
        client = client.set_client_to_redis_username(username);
    }
    if let Some(password) = &access.login.password {
        client = client.set_client_to_redis_password(password);
    }
    if access.tls {
        client = client.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(trust) = trust {
            client = client
                .set_client_to_redis_certificates(trust.clone())
                .set_client_to_sentinel_certificates(trust);
        }
    }
    let found = client.build()?.async_get_client().await?;
    Ok(found.get_connection_info().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_used_are_known_by_their_form() {
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

    #[test]
    fn no_secret_is_shown() {
        let login = Login {
            username: Some("user".into()),
            password: Some("secret".into()),
        };
        let access = Access {
            login: login.clone(),
            ..Access::default()
        };
        let node = Node {
            host: "host".into(),
            port: 1,
        };
        let sentinels = Server::sentinels(vec![node.clone()], login, "main", access.clone());
        assert_eq!(format!("{sentinels:?}"), "Sentinels(main)");
        let cluster = Server::cluster(vec![node], access);
        assert_eq!(format!("{cluster:?}"), "Cluster(1 nodes)");
    }
}
