//! Why Redis cannot be connected to, in words without secrets.

use std::error::Error;
use std::io;
use std::sync::Arc;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio_rustls::rustls::{self, CertificateError};

use crate::kernel::pool::{ConnectError, ConnectErrorKind};

/// Converts the driver's error of a failed connect or check.
pub(super) fn connect_error(error: &RedisError) -> ConnectError {
    let code = error.code().unwrap_or_default();
    let too_many = || {
        let detail = error.detail().unwrap_or_default();
        detail.contains("max number of clients")
    };
    let (kind, words) = match error.kind() {
        ErrorKind::AuthenticationFailed => (
            ConnectErrorKind::Denied,
            "redis refused the user or the password",
        ),
        ErrorKind::Server(ServerErrorKind::NoPerm) => (
            ConnectErrorKind::Denied,
            "redis denies this user a needed command",
        ),
        _ if matches!(code, "NOAUTH" | "WRONGPASS") => (
            ConnectErrorKind::Denied,
            "redis refused the user or the password",
        ),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain,
        ) => (ConnectErrorKind::Refused, "redis is not ready yet"),
        ErrorKind::Server(_) if too_many() => {
            (ConnectErrorKind::Refused, "redis has too many connections")
        }
        ErrorKind::Server(_) if error.to_string().contains("switch database") => (
            ConnectErrorKind::Denied,
            "redis refused the number of the database",
        ),
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::ClusterConnectionNotFound => (
            ConnectErrorKind::Unreachable,
            "no redis master or cluster node was found",
        ),
        ErrorKind::RESP3NotSupported => {
            (ConnectErrorKind::Protocol, "redis is older than version 6")
        }
        _ if error.is_timeout() => (ConnectErrorKind::TimedOut, "redis did not answer in time"),
        ErrorKind::Io => match tls_failure(error) {
            Some(words) => (ConnectErrorKind::Tls, words),
            None if was_closed_by_server(error) => (
                ConnectErrorKind::Refused,
                "redis closed the connection at once: it has too many connections, or requires TLS",
            ),
            None => (ConnectErrorKind::Unreachable, "redis cannot be reached"),
        },
        _ => (
            ConnectErrorKind::Protocol,
            "redis sent an unexpected answer",
        ),
    };
    ConnectError::new(kind, words).caused_by(error.clone())
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

fn io_cause(error: &RedisError) -> Option<&io::Error> {
    let cause: &Arc<dyn Error + Send + Sync> = error.source()?.downcast_ref()?;
    cause.downcast_ref()
}

/// Why TLS failed, if it did.
fn tls_failure(error: &RedisError) -> Option<&'static str> {
    let words = match io_cause(error)?.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "no trusted authority signed the certificate of redis",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the certificate of redis is for another host",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the certificate of redis has expired",
        rustls::Error::InvalidMessage(_) => "the port of redis does not use TLS",
        _ => "the TLS handshake with redis failed",
    };
    Some(words)
}
