//! Why Redis cannot be connected to, in words without secrets.

use std::error::Error;
use std::io;
use std::sync::Arc;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio_rustls::rustls::{self, CertificateError};

use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Converts the driver's error of a failed connect or check.
pub(super) fn connect_error(error: &RedisError) -> ConnectError {
    use ConnectErrorKind as Kind;
    use ServerErrorKind as Server;
    let detail = error.detail().unwrap_or_default();
    let is_refused_login = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    let (kind, words) = match error.kind() {
        _ if is_refused_login => (Kind::Denied, "redis refused the user or the password"),
        ErrorKind::Server(Server::NoPerm) => {
            (Kind::Denied, "redis denies this user a needed command")
        }
        ErrorKind::Server(
            Server::BusyLoading | Server::MasterDown | Server::ClusterDown | Server::TryAgain,
        ) => (Kind::Refused, "redis is not ready yet"),
        ErrorKind::Server(_) if detail.contains("max number of clients") => {
            (Kind::Refused, "redis has too many connections")
        }
        ErrorKind::Server(_) if error.to_string().contains("switch database") => {
            (Kind::Denied, "redis refused the number of the database")
        }
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::ClusterConnectionNotFound => (
            Kind::Unreachable,
            "no redis master or cluster node was found",
        ),
        ErrorKind::RESP3NotSupported => (Kind::Protocol, "redis is older than version 6"),
        _ if error.is_timeout() => (Kind::TimedOut, "redis did not answer in time"),
        ErrorKind::Io => match tls_failure(error) {
            Some(words) => (Kind::Tls, words),
            None if was_closed_by_server(error) => (
                Kind::Refused,
                "redis closed the connection at once: it has too many connections, or requires TLS",
            ),
            None => (Kind::Unreachable, "redis cannot be reached"),
        },
        _ => (Kind::Protocol, "redis sent an unexpected answer"),
    };
    ConnectError::new(kind, words).caused_by(error.clone())
}

/// Whether the user may not use the command. The server has answered, and lives.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Whether a server was there and closed the connection. A server with too many connections sends an
/// error first, which is lost if the client was still sending.
fn was_closed_by_server(error: &RedisError) -> bool {
    use io::ErrorKind as E;
    let cause = io_cause(error).map(io::Error::kind);
    matches!(
        cause,
        Some(E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof)
    )
}

pub(super) fn io_cause(error: &RedisError) -> Option<&io::Error> {
    let cause: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    cause.downcast_ref()
}

/// Why TLS failed, if it did.
fn tls_failure(error: &RedisError) -> Option<&'static str> {
    use CertificateError as Fault;
    let fault = match io_cause(error)?.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(fault) => fault,
        rustls::Error::InvalidMessage(_) => return Some("the port of redis does not use TLS"),
        _ => return Some("the TLS handshake with redis failed"),
    };
    Some(match fault {
        Fault::UnknownIssuer | Fault::BadSignature => {
            "no trusted authority signed the certificate of redis"
        }
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "the certificate of redis is for another host"
        }
        Fault::Expired | Fault::ExpiredContext { .. } => "the certificate of redis has expired",
        _ => "the TLS handshake with redis failed",
    })
}
