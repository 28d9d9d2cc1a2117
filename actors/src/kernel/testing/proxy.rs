//! A way to a server that can go wrong: slow, cut off in the middle of an answer, closed, or leading
//! nowhere. It stands between the real server and the real driver, on the loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a connection through a [`Proxy`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Forwards.
    Pass,
    /// Forwards, each piece of what the server says so much later.
    Delay(Duration),
    /// Forwards so many more bytes of what the server says, then ends: in the middle of an answer
    /// that is longer.
    Cut(usize),
    /// Forwards nothing and does not end. What was under way goes on if it is told to pass again.
    Hole,
    /// Ends.
    Close,
}

/// Where a [`Proxy`] leads.
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

/// A way to a server that does as it is told. Ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicU64>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    /// Counts the orders.
    round: u64,
    /// For connections that were there at the last order.
    there: Conduct,
    /// For those that came afterwards.
    coming: Conduct,
}

impl Proxy {
    /// A way to `target` that passes everything.
    pub(crate) async fn start(target: impl Into<Target>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (orders, told) = watch::channel(Orders {
            round: 0,
            there: Conduct::Pass,
            coming: Conduct::Pass,
        });
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let mut acceptor = JoinSet::new();
        acceptor.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let course = Course::new(told.clone());
                connections.spawn(connection(near, target.clone(), course));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            orders,
            accepted,
            _acceptor: acceptor,
        }
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made to it so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// From now on the connections that are there do one thing, and those still to come another. Once
    /// this returns, not a byte more is forwarded than they may.
    pub(crate) fn order(&self, there: Conduct, coming: Conduct) {
        self.orders.send_modify(|orders| {
            *orders = Orders {
                round: orders.round + 1,
                there,
                coming,
            };
        });
    }
}

/// What one connection was told.
#[derive(Clone)]
struct Course {
    orders: watch::Receiver<Orders>,
    /// The last order before it came.
    since: u64,
    coming: Conduct,
}

impl Course {
    fn new(orders: watch::Receiver<Orders>) -> Self {
        let (since, coming) = {
            let now = orders.borrow();
            (now.round, now.coming)
        };
        Self {
            orders,
            since,
            coming,
        }
    }

    /// What to do, and by which order.
    fn now(&self) -> (u64, Conduct) {
        let orders = self.orders.borrow();
        let later = orders.round > self.since;
        let conduct = if later { orders.there } else { self.coming };
        (orders.round, conduct)
    }

    /// Waits as long as it leads nowhere.
    async fn open(&mut self) -> (u64, Conduct) {
        loop {
            self.orders.mark_unchanged();
            let now = self.now();
            if now.1 != Conduct::Hole || self.orders.changed().await.is_err() {
                return now;
            }
        }
    }

    async fn closed(&mut self) {
        loop {
            self.orders.mark_unchanged();
            if self.now().1 == Conduct::Close || self.orders.changed().await.is_err() {
                return;
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connection(near: TcpStream, target: Target, mut course: Course) {
    // A hole takes the connection before it knows of a server, and it ends as any other.
    course.open().await;
    let far: std::io::Result<Box<dyn Stream>> = match target {
        Target::Tcp(address) => TcpStream::connect(address)
            .await
            .map(|it| Box::new(it) as _),
        Target::Unix(path) => UnixStream::connect(path).await.map(|it| Box::new(it) as _),
    };
    let Ok(far) = far else {
        return;
    };
    near.set_nodelay(true).ok();
    let (near_from, near_to) = split(near);
    let (far_from, far_to) = split(far);
    tokio::select! {
        () = questions(near_from, far_to, course.clone()) => {}
        () = answers(far_from, near_to, course.clone()) => {}
        () = course.closed() => {}
    }
}

async fn questions(
    mut from: ReadHalf<impl Stream>,
    mut to: WriteHalf<impl Stream>,
    mut course: Course,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        course.open().await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answers(
    mut from: ReadHalf<impl Stream>,
    mut to: WriteHalf<impl Stream>,
    mut course: Course,
) {
    let mut buffer = vec![0; 16 * 1024];
    let (mut round, mut passed) = (0, 0);
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let (order, mut conduct) = course.open().await;
        if let Conduct::Delay(pause) = conduct {
            tokio::time::sleep(pause).await;
            conduct = course.open().await.1;
        }
        if std::mem::replace(&mut round, order) != order {
            passed = 0;
        }
        let may = match conduct {
            Conduct::Cut(bytes) => read.min(bytes.saturating_sub(passed)),
            _ => read,
        };
        passed += may;
        let written = to.write_all(&buffer[..may]).await;
        if read == 0 || may < read || written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// A server that sends back what it hears.
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

    async fn say(stream: &mut TcpStream, text: &str) -> Option<String> {
        stream.write_all(text.as_bytes()).await.unwrap();
        hear(stream, text.len()).await
    }

    /// What comes, up to `most` bytes: `None` when nothing does, and nothing ends.
    async fn hear(stream: &mut TcpStream, most: usize) -> Option<String> {
        let mut buffer = vec![0; most];
        let read = timeout(SHORT, stream.read(&mut buffer)).await.ok()?;
        buffer.truncate(read.unwrap_or(0));
        Some(String::from_utf8(buffer).unwrap())
    }

    #[tokio::test]
    async fn connections_do_as_they_are_told() {
        let (address, _server) = echo().await;
        let proxy = Proxy::start(address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut stream, "one").await.unwrap(), "one");

        proxy.order(Conduct::Hole, Conduct::Pass);
        assert_eq!(say(&mut stream, "two").await, None);
        let mut later = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut later, "works").await.unwrap(), "works");
        proxy.order(Conduct::Pass, Conduct::Hole);
        assert_eq!(hear(&mut stream, 3).await.unwrap(), "two");
        let mut lost = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut lost, "lost").await, None);

        let pause = SHORT / 2;
        proxy.order(Conduct::Delay(pause), Conduct::Pass);
        let asked = Instant::now();
        assert_eq!(say(&mut stream, "slow").await.unwrap(), "slow");
        assert!(asked.elapsed() >= pause);

        proxy.order(Conduct::Cut(2), Conduct::Pass);
        assert_eq!(say(&mut stream, "three").await.unwrap(), "th");
        assert_eq!(hear(&mut stream, 9).await.unwrap(), "", "it ended");

        proxy.order(Conduct::Close, Conduct::Close);
        assert_eq!(hear(&mut later, 9).await.unwrap(), "");
        let mut last = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(hear(&mut last, 9).await.unwrap(), "");
        assert_eq!(proxy.accepted(), 4);
    }
}
