//! One connect outside of a pool, to find out whether a Redis can be reached.

use std::time::Duration;

use deadpool_redis::redis::{ConnectionAddr, cmd};

use super::connector::Connector;
use super::server_info::{InfoReplies, parse};
use crate::kernel::pool::{Connect, ConnectError};

/// What a connect has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Host and port, or the path of the socket. In a cluster, those of the first node in the settings.
    pub server: String,
    /// The server's version. `None` if the user may not ask for it.
    pub version: Option<String>,
    /// Whether the connection uses TLS.
    pub uses_tls: bool,
}

impl Connector {
    /// Connects once as a pool would, checks the connection, and closes it.
    ///
    /// # Errors
    /// The connect or the check failed.
    pub async fn try_once(&self) -> Result<Trial, ConnectError> {
        let info = self.server.connection_info(0).await?;
        let connection = self.connect().await?;
        self.check(&connection).await?;
        let mut transport = connection.transport();
        let mut info_server = cmd("INFO");
        info_server.arg("server");
        let reply = info_server.query_async::<InfoReplies>(&mut transport).await;
        let reply = reply
            .ok()
            .and_then(|InfoReplies(nodes)| nodes.into_iter().next());
        Ok(Trial {
            server: info.addr().to_string(),
            version: reply.map(|reply| parse(&reply, Duration::ZERO).version),
            uses_tls: matches!(info.addr(), ConnectionAddr::TcpTls { .. }),
        })
    }
}
