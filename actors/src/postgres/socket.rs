//! Sockets to a server: the look-up of its name, its addresses, and the options of TCP.
//!
//! The driver of a connection owns its [`Socket`] and drops it at its end. It is not closed then: what is
//! left of it ([`Rest`]) shows when the server closes its side.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::seq::SliceRandom;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::oneshot;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// How long an address may take before the next one is tried beside it.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Addresses of one name at most. A name with more is used with the first ones.
const ADDRESSES_MAX: usize = 16;

/// The bytes that are read at once of what nobody needs.
const REST_BUFFER_BYTES: usize = 4096;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The addresses of the server that `config` names: those of its host, or its only one.
///
/// # Errors
/// The name cannot be looked up, or has no address.
pub(super) async fn resolve(config: &Config) -> io::Result<Vec<Address>> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    if let Some(address) = config.get_hostaddrs().first() {
        return Ok(vec![Address::Tcp(SocketAddr::new(*address, port))]);
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host,
        Some(Host::Unix(folder)) => {
            return Ok(vec![Address::Unix(folder.join(format!(".s.PGSQL.{port}")))]);
        }
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "no host")),
    };
    let found = lookup_host((host.as_str(), port)).await?;
    let mut addresses: Vec<_> = found.map(Address::Tcp).collect();
    if addresses.is_empty() {
        let message = "the name has no address";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        addresses.shuffle(&mut rand::rng());
    }
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

/// Connects to the addresses of one server: to the first one, and beside a slow one to the next.
pub(super) struct Connecting<'a> {
    config: &'a Config,
    /// The addresses that have no result.
    pub(super) pending: Vec<Address>,
    waiting: VecDeque<Address>,
    begun: FuturesUnordered<BoxFuture<'a, (Address, io::Result<Socket>)>>,
}

impl<'a> Connecting<'a> {
    pub(super) fn new(config: &'a Config, addresses: Vec<Address>) -> Self {
        Self {
            config,
            pending: addresses.clone(),
            waiting: addresses.into(),
            begun: FuturesUnordered::new(),
        }
    }

    /// The next address that has a socket or an error. `None` after the last one.
    pub(super) async fn next(&mut self) -> Option<(Address, io::Result<Socket>)> {
        loop {
            if self.begun.is_empty() && !self.begin() {
                return None;
            }
            let slow = async {
                if self.waiting.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(NEXT_AFTER).await;
            };
            tokio::select! {
                Some((address, socket)) = self.begun.next() => {
                    self.pending.retain(|pending| *pending != address);
                    return Some((address, socket));
                }
                () = slow => {
                    self.begin();
                }
            }
        }
    }

    fn begin(&mut self) -> bool {
        let Some(address) = self.waiting.pop_front() else {
            return false;
        };
        let config = self.config;
        self.begun.push(Box::pin(async move {
            let socket = Socket::connect(&address, config).await;
            (address, socket)
        }));
        true
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    /// Who gets the stream when the socket is dropped.
    heir: Option<oneshot::Sender<Stream>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Somebody else has it.
    Gone,
}

impl Socket {
    /// Connects to `address`, with the TCP options of `config`.
    pub(super) async fn connect(address: &Address, config: &Config) -> io::Result<Self> {
        let stream = match address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix)?,
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                set_options(&stream, config)?;
                Stream::Tcp(stream)
            }
        };
        Ok(Self { stream, heir: None })
    }

    /// Keeps the socket open when it is dropped, as long as the returned value exists.
    pub(super) fn keep_open(&mut self) -> Kept {
        let (heir, kept) = oneshot::channel();
        self.heir = Some(heir);
        Kept(kept)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(heir) = self.heir.take() {
            heir.send(std::mem::replace(&mut self.stream, Stream::Gone))
                .ok();
        }
    }
}

/// Answers are small and wanted at once. The kernel finds out whether a silent server is still there.
fn set_options(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(timeout) = config.get_tcp_user_timeout() {
        let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, ms)?;
    }
    if config.get_keepalives() {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, config.get_keepalives_idle())?;
        if let Some(interval) = config.get_keepalives_interval() {
            sockopt::set_tcp_keepintvl(stream, interval)?;
        }
        if let Some(retries) = config.get_keepalives_retries() {
            sockopt::set_tcp_keepcnt(stream, retries)?;
        }
    }
    Ok(())
}

/// See [`Socket::keep_open`].
pub(super) struct Kept(oneshot::Receiver<Stream>);

impl Kept {
    /// What is left of the socket. `None` while it is not dropped.
    pub(super) fn rest(mut self) -> Option<Rest> {
        self.0
            .try_recv()
            .ok()
            .map(|stream| Rest(Socket { stream, heir: None }))
    }
}

/// What is left of a dropped socket.
pub(super) struct Rest(Socket);

impl Rest {
    /// Tells the other side that nothing more is sent. Has no effect on a socket that has ended.
    pub(super) async fn close_sending(&mut self) {
        self.0.shutdown().await.ok();
    }

    /// Waits for bytes and throws them away. Returns false when the other side has closed.
    pub(super) async fn skip(&mut self) -> bool {
        let mut buffer = [0; REST_BUFFER_BYTES];
        // A reset ends it as well.
        !matches!(self.0.read(&mut buffer).await, Ok(0) | Err(_))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Gone => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    /// A listener that takes no connection: its queue is full.
    async fn silent() -> (std::net::TcpListener, TcpStream, Address) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).await.unwrap();
        (listener, first, Address::Tcp(address))
    }

    #[tokio::test]
    async fn the_next_address_is_tried_beside_a_slow_one_and_at_once_after_a_failed_one() {
        let (_listener, _first, slow) = silent().await;
        let refusing = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            Address::Tcp(listener.local_addr().unwrap())
        };
        let working = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let working = (Address::Tcp(working.local_addr().unwrap()), working);
        let config = Config::new();
        let addresses = vec![refusing.clone(), slow.clone(), working.0.clone()];
        let mut connecting = Connecting::new(&config, addresses);
        let began = Instant::now();
        let (address, failed) = connecting.next().await.unwrap();
        assert_eq!(address, refusing);
        let kind = failed.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ConnectionRefused);
        assert_eq!(connecting.pending.len(), 2);
        let (address, socket) = connecting.next().await.unwrap();
        assert_eq!(address, working.0);
        assert!(socket.is_ok() && began.elapsed() >= NEXT_AFTER);
        assert_eq!(connecting.pending, [slow], "it is still tried");
    }

    #[tokio::test]
    async fn sockets_have_the_options_of_the_configuration() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let mut config = Config::new();
        config
            .keepalives_idle(Duration::from_secs(7))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(4)
            .tcp_user_timeout(Duration::from_secs(9));
        let mut socket = Socket::connect(&address, &config).await.unwrap();
        let kept = socket.keep_open();
        let Stream::Tcp(stream) = &socket.stream else {
            panic!("a TCP address");
        };
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(stream).unwrap());
        let seconds = |duration: Duration| duration.as_secs();
        assert_eq!(seconds(sockopt::tcp_keepidle(stream).unwrap()), 7);
        assert_eq!(seconds(sockopt::tcp_keepintvl(stream).unwrap()), 5);
        assert_eq!(sockopt::tcp_keepcnt(stream).unwrap(), 4);
        assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), 9000);
        drop(socket);
        assert!(kept.rest().is_some(), "it is still open");
    }
}
