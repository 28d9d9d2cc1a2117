//! Requests to cancel what a server does.
//!
//! Each has a connection of its own, which the server closes when it has interrupted the statement. It stays
//! open until then, whoever waits for it: `PgBouncer` 1.18 passes such a request on and ends with a fatal
//! error if the connection is closed meanwhile, also for sending only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::retire::tls_for;
use super::socket::{Address, Socket};

/// How long to wait for one request to cancel.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// How long its connection stays open. A pooler lets a request wait for so long by default.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Asks a server to cancel what it does for one connection.
pub(super) struct Canceller {
    pub(super) token: CancelToken,
    pub(super) tls: MakeRustlsConnect,
    pub(super) config: Config,
    /// Where the connection's server listens. Its name may have other addresses.
    pub(super) address: Address,
}

impl Canceller {
    /// Asks once. Returns true when the server has done what it does for such a request: it has
    /// interrupted the connection's statement. Only then no later statement can be hit: after false, nothing
    /// more may be sent over the connection.
    pub(super) async fn cancel(self: &Arc<Self>) -> bool {
        let canceller = Arc::clone(self);
        let asking = tokio::spawn(async move { timeout(OPEN_MAX, canceller.ask()).await });
        matches!(timeout(CANCEL_WITHIN, asking).await, Ok(Ok(Ok(Some(())))))
    }

    async fn ask(&self) -> Option<()> {
        let mut socket = Socket::connect(&self.address, &self.config).await.ok()?;
        let kept = socket.keep_open();
        let tls = Unclosed(tls_for(&self.tls, &self.config)?);
        let asked = self.token.cancel_query_raw(Unclosed(socket), tls).await;
        asked.ok()?;
        // The server closes after it has sent the signal.
        let mut rest = kept.rest()?;
        while rest.skip().await {}
        Some(())
    }
}

/// A stream that the driver cannot close, or a TLS client that makes such streams.
struct Unclosed<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Unclosed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unclosed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Unclosed<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.channel_binding()
    }
}

impl<T> TlsConnect<Unclosed<Socket>> for Unclosed<T>
where
    T: TlsConnect<Socket, Future: Send + 'static> + 'static,
{
    type Stream = Unclosed<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: Unclosed<Socket>) -> Self::Future {
        let connecting = self.0.connect(stream.0);
        Box::pin(async move { connecting.await.map(Unclosed) })
    }
}
