//! One connect outside of a pool, to find out whether a database can be reached.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::connector::Connector;
use crate::kernel::pool::{Connect, ConnectError, ConnectErrorKind};

/// What a connect has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Host and port of the server.
    pub server: String,
    /// The server's version.
    pub version: String,
    /// Whether the connection uses TLS.
    pub uses_tls: bool,
}

impl Connector {
    /// Connects once as a pool would, asks the server whether the connection uses TLS, and closes the
    /// connection.
    ///
    /// # Errors
    /// The connect failed, or the server did not answer on the connection.
    pub async fn try_once(&self) -> Result<Trial, ConnectError> {
        let connection = Arc::new(self.connect().await?);
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let failed = |error: super::Error| {
            ConnectError::new(ConnectErrorKind::Protocol, error.to_string()).at(&connection.server)
        };
        let output = connection.run(sql, &[], &AtomicBool::new(false)).await;
        let row = output.and_then(|output| output.one()).map_err(failed)?;
        Ok(Trial {
            server: connection.server.clone(),
            version: connection.version.clone(),
            uses_tls: row.try_get(0).map_err(|error| failed(error.into()))?,
        })
    }

    /// Connects once as a pool would, reads the texts that `sql` selects, and closes the connection.
    ///
    /// # Errors
    /// The connect failed, or the server did not answer as expected.
    pub async fn read_once(&self, sql: &str) -> Result<Vec<String>, ConnectError> {
        let connection = Arc::new(self.connect().await?);
        let failed = |error: super::Error| {
            ConnectError::new(ConnectErrorKind::Protocol, error.to_string()).at(&connection.server)
        };
        let output = connection.run(sql, &[], &AtomicBool::new(false)).await;
        let rows = output.map_err(failed)?.rows;
        let texts = rows.iter().map(|row| row.try_get(0));
        texts
            .collect::<Result<_, _>>()
            .map_err(|error| failed(error.into()))
    }
}
