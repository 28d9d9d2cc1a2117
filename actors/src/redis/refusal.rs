//! What the driver's errors mean for who wants a connection.

use std::error::Error;
use std::io;
use std::sync::Arc;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio_rustls::rustls::{self, CertificateError};

use crate::kernel::pool::{ConnectError, ConnectErrorKind};

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
        ErrorKind::Server(_) if error.to_string().contains("switch database") => {
            (ConnectErrorKind::Denied, "redis refused the database")
        }
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::ClusterConnectionNotFound => (
            ConnectErrorKind::Unreachable,
            "no master of redis was found",
        ),
        ErrorKind::RESP3NotSupported => {
            (ConnectErrorKind::Protocol, "redis is older than version 6")
        }
        _ if error.is_timeout() => (ConnectErrorKind::TimedOut, "redis did not answer in time"),
        ErrorKind::Io => match broken_channel(error) {
            Some(words) => (ConnectErrorKind::Tls, words),
            None if hung_up(error) => (
                ConnectErrorKind::Refused,
                "redis hung up at once: it has too many connections, or wants TLS",
            ),
            None => (ConnectErrorKind::Unreachable, "redis cannot be reached"),
        },
        _ => (
            ConnectErrorKind::Protocol,
            "redis did not answer as it should",
        ),
    };
    ConnectError::new(kind, words).caused_by(error.clone())
}

/// Whether somebody was there and ended the connection: what a server that is full says before it
/// does so is lost when we were not yet done speaking.
fn hung_up(error: &RedisError) -> bool {
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

/// What is wrong with the secure channel, if that is what failed.
fn broken_channel(error: &RedisError) -> Option<&'static str> {
    let words = match io_cause(error)?.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "the certificate of redis is from nobody who is trusted",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the certificate of redis is for another host",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the certificate of redis has expired",
        rustls::Error::InvalidMessage(_) => "no TLS is spoken at the port of redis",
        _ => "no secure channel to redis can be made",
    };
    Some(words)
}
