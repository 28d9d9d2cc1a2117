//! A proxy on the loopback between a real driver and a real server. It injects faults: delays,
//! truncated answers, closed connections, and connections that stay open but forward nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a connection through a [`Proxy`] suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: it forwards.
    None,
    /// It forwards each piece of the server's answers this much later.
    Delay(Duration),
    /// It forwards this many more bytes of the server's answers, then closes. A longer answer is
    /// cut off in the middle.
    Truncate(usize),
    /// It forwards nothing and stays open. Pending bytes are forwarded once the fault is cleared.
    Blackhole,
    /// It closes.
    Close,
}

/// The server behind a [`Proxy`].
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Path> for Target {
    fn from(socket: &Path) -> Self {
        Self::Unix(socket.to_owned())
    }
}

/// A proxy in front of one server. It closes all of its connections when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    settings: watch::Sender<Settings>,
    accepted: Arc<AtomicU64>,
    target: Arc<Mutex<Target>>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    /// Incremented by each change.
    version: u64,
    /// For connections that were open at the last change.
    existing: Fault,
    /// For connections opened since.
    new: Fault,
}

impl Proxy {
    /// Starts a proxy to `target` without faults.
    pub(crate) async fn start(target: impl Into<Target>) -> Self {
        let target = Arc::new(Mutex::new(target.into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (settings, receiver) = watch::channel(Settings {
            version: 0,
            existing: Fault::None,
            new: Fault::None,
        });
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let current = Arc::clone(&target);
        let mut acceptor = JoinSet::new();
        acceptor.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let fault = CurrentFault::new(receiver.clone());
                let target = current.lock().unwrap_or_else(PoisonError::into_inner);
                connections.spawn(forward(client, target.clone(), fault));
                drop(target);
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            settings,
            accepted,
            target,
            _acceptor: acceptor,
        }
    }

    /// The address to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends the connections to come to `target`.
    pub(crate) fn set_target(&self, target: impl Into<Target>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target.into();
    }

    /// How many connections the proxy has accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Sets the fault of the open connections and the fault of those to come. The faults hold for
    /// every byte that is forwarded after this call returns.
    pub(crate) fn set_faults(&self, existing: Fault, new: Fault) {
        self.settings.send_modify(|settings| {
            *settings = Settings {
                version: settings.version + 1,
                existing,
                new,
            };
        });
    }
}

/// The fault that holds for one connection.
#[derive(Clone)]
struct CurrentFault {
    settings: watch::Receiver<Settings>,
    /// The settings' version when the connection was opened.
    opened_at: u64,
    /// The fault until the settings change.
    initial: Fault,
}

impl CurrentFault {
    fn new(settings: watch::Receiver<Settings>) -> Self {
        let Settings { version, new, .. } = *settings.borrow();
        Self {
            settings,
            opened_at: version,
            initial: new,
        }
    }

    /// The fault, and the version of the settings that set it.
    fn get(&self) -> (u64, Fault) {
        let settings = self.settings.borrow();
        let is_changed = settings.version > self.opened_at;
        let fault = if is_changed {
            settings.existing
        } else {
            self.initial
        };
        (settings.version, fault)
    }

    /// Waits until the connection may forward, then returns its fault.
    async fn wait_for_forwarding(&mut self) -> (u64, Fault) {
        loop {
            self.settings.mark_unchanged();
            let current = self.get();
            if current.1 != Fault::Blackhole || self.settings.changed().await.is_err() {
                return current;
            }
        }
    }

    async fn wait_for_close(&mut self) {
        loop {
            self.settings.mark_unchanged();
            if self.get().1 == Fault::Close || self.settings.changed().await.is_err() {
                return;
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn forward(client: TcpStream, target: Target, mut fault: CurrentFault) {
    // A connection that begins in a black hole does not reach the server.
    fault.wait_for_forwarding().await;
    let server: std::io::Result<Box<dyn Stream>> = match target {
        Target::Tcp(address) => TcpStream::connect(address)
            .await
            .map(|stream| Box::new(stream) as _),
        Target::Unix(path) => UnixStream::connect(path)
            .await
            .map(|stream| Box::new(stream) as _),
    };
    let Ok(server) = server else {
        return;
    };
    client.set_nodelay(true).ok();
    let (from_client, to_client) = split(client);
    let (from_server, to_server) = split(server);
    tokio::select! {
        () = forward_requests(from_client, to_server, fault.clone()) => {}
        () = forward_answers(from_server, to_client, fault.clone()) => {}
        () = fault.wait_for_close() => {}
    }
}

async fn forward_requests(
    mut from: ReadHalf<impl Stream>,
    mut to: WriteHalf<impl Stream>,
    mut fault: CurrentFault,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        fault.wait_for_forwarding().await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn forward_answers(
    mut from: ReadHalf<impl Stream>,
    mut to: WriteHalf<impl Stream>,
    mut fault: CurrentFault,
) {
    let mut buffer = vec![0; 16 * 1024];
    // Bytes forwarded under the settings of `version`.
    let (mut version, mut forwarded) = (0, 0);
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let (new_version, mut current) = fault.wait_for_forwarding().await;
        if let Fault::Delay(pause) = current {
            tokio::time::sleep(pause).await;
            current = fault.wait_for_forwarding().await.1;
        }
        if std::mem::replace(&mut version, new_version) != new_version {
            forwarded = 0;
        }
        let allowed = match current {
            Fault::Truncate(bytes) => read.min(bytes.saturating_sub(forwarded)),
            _ => read,
        };
        forwarded += allowed;
        let written = to.write_all(&buffer[..allowed]).await;
        if read == 0 || allowed < read || written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// A server that sends back what it receives.
    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        (address, server)
    }

    /// Sends `text` and reads as many bytes back.
    async fn exchange(stream: &mut TcpStream, text: &str) -> Option<String> {
        stream.write_all(text.as_bytes()).await.unwrap();
        receive(stream, text.len()).await
    }

    /// Reads up to `max` bytes. `None` when no byte arrives and the stream stays open.
    async fn receive(stream: &mut TcpStream, max: usize) -> Option<String> {
        let mut buffer = vec![0; max];
        let read = timeout(SHORT, stream.read(&mut buffer)).await.ok()?;
        buffer.truncate(read.unwrap_or(0));
        Some(String::from_utf8(buffer).unwrap())
    }

    #[tokio::test]
    async fn connections_suffer_the_faults_that_are_set() {
        let (address, _server) = echo().await;
        let proxy = Proxy::start(address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut stream, "one").await.unwrap(), "one");

        proxy.set_faults(Fault::Blackhole, Fault::None);
        assert_eq!(exchange(&mut stream, "two").await, None);
        let mut later = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut later, "works").await.unwrap(), "works");
        proxy.set_faults(Fault::None, Fault::Blackhole);
        assert_eq!(receive(&mut stream, 3).await.unwrap(), "two");
        let mut lost = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut lost, "lost").await, None);

        let pause = SHORT / 2;
        proxy.set_faults(Fault::Delay(pause), Fault::None);
        let sent = Instant::now();
        assert_eq!(exchange(&mut stream, "slow").await.unwrap(), "slow");
        assert!(sent.elapsed() >= pause);

        proxy.set_faults(Fault::Truncate(2), Fault::None);
        assert_eq!(exchange(&mut stream, "three").await.unwrap(), "th");
        assert_eq!(receive(&mut stream, 9).await.unwrap(), "", "it closed");

        proxy.set_faults(Fault::Close, Fault::Close);
        assert_eq!(receive(&mut later, 9).await.unwrap(), "");
        let mut last = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(receive(&mut last, 9).await.unwrap(), "");
        assert_eq!(proxy.accepted(), 4);
    }
}
