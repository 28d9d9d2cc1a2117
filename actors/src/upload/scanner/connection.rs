//! Connections to clamd.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::config::{Address, ScannerConfig};
use super::error::{ScanError, TimeoutCause};
use super::facts::Signatures;
use super::reply::{self, Reply};

/// A connection that the present runtime serves.
pub(super) type Connection = Either<UnixStream, TcpStream>;

/// A connection on its way from one runtime to another.
#[derive(Debug)]
pub(super) enum Parked {
    Unix(StdUnixStream),
    Tcp(StdTcpStream),
}

impl Parked {
    /// # Errors
    /// The system's.
    pub(super) fn of(connection: Connection) -> io::Result<Self> {
        Ok(match connection {
            Either::Left(unix) => Self::Unix(unix.into_std()?),
            Either::Right(tcp) => Self::Tcp(tcp.into_std()?),
        })
    }

    /// The connection, served by the runtime of the present task.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn resume(self) -> io::Result<Connection> {
        Ok(match self {
            Self::Unix(unix) => Either::Left(UnixStream::from_std(unix)?),
            Self::Tcp(tcp) => Either::Right(TcpStream::from_std(tcp)?),
        })
    }
}

/// Connects to clamd.
///
/// # Errors
/// Nobody accepts the connection, or not in time.
pub(super) async fn connect(config: &ScannerConfig) -> Result<Connection, ScanError> {
    let connect = async {
        Ok(match &config.address {
            Address::Unix(path) => Either::Left(UnixStream::connect(path).await?),
            Address::Tcp(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Either::Right(tcp)
            }
        })
    };
    let connected = within(config.connect_timeout, TimeoutCause::Connect, connect).await?;
    // The error names no path: callers get it.
    connected.map_err(|error: io::Error| ScanError::unreachable(error.to_string()))
}

/// Connects to clamd once, and asks for its version.
///
/// # Errors
/// As for a scan.
pub async fn try_once(config: &ScannerConfig) -> Result<String, ScanError> {
    let mut connection = connect(config).await?;
    let (version, _) = ask_version(config, &mut connection).await?;
    Ok(version)
}

/// Asks clamd for its version. It answers also while it scans.
///
/// # Errors
/// It does not answer, or not in time, or is no clamd.
pub(super) async fn ask_version(
    config: &ScannerConfig,
    connection: &mut Connection,
) -> Result<(String, Option<Signatures>), ScanError> {
    let ask = async {
        let sent = connection.write_all(b"zVERSION\0").await;
        sent.map_err(|error| reply::lost(&error))?;
        let mut reply = Reply::default();
        let text = poll_fn(|context| reply.poll_read(connection, context)).await?;
        reply::version(&text)
    };
    within(config.check_timeout, TimeoutCause::Version, ask).await?
}

/// Waits for `work`.
///
/// # Errors
/// It takes longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    cause: TimeoutCause,
    work: impl Future<Output = T>,
) -> Result<T, ScanError> {
    let result = timeout(limit, work).await;
    result.map_err(|_| ScanError::Timeout { cause, limit })
}
