//! The WebSocket of a provider, which tells each new block as soon as it is there.
//!
//! It is beside the HTTP connections: without it, the newest block is asked for at intervals, as always.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::endpoint::WsTarget;
use super::fault::{Fault, Unused};
use super::served_chain::number;
use super::shared::Shared;
use super::tls::Tls;
use super::wire::{Answers, Member, read, write};
use crate::chain::block::Block;
use crate::kernel::{Backoff, chain};

/// How long the connect may take, with TLS, the handshake and the subscription.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// The largest message. Blocks are told without their transactions.
const MESSAGE_MAX: usize = 1024 * 1024;
const BUFFER: usize = 16 * 1024;

/// How often the provider is asked whether it is there, and after how long without a word it is not.
const PING_EVERY: Duration = Duration::from_secs(10);
const SILENT_MAX: Duration = Duration::from_secs(30);

/// How long it waits after a failure.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Follows the newest blocks of a provider that has a WebSocket, without end. Connects again after each failure, and only
/// while the provider is used.
pub(super) async fn follow_heads(shared: Arc<Shared>, target: WsTarget, tls: Tls) {
    let backoff =
        Backoff::try_new(RETRY_MIN, RETRY_MAX, Duration::ZERO).unwrap_or(Backoff::DEFAULT);
    let mut failures = 0;
    loop {
        if !shared.is_followed() {
            shared.used_again.notified().await;
            continue;
        }
        let ended = async {
            let mut socket = timeout(OPEN_WITHIN, open(&shared, &target, &tls))
                .await
                .map_err(|_| Fault::Timeout(OPEN_WITHIN))??;
            failures = 0;
            follow(&shared, &mut socket).await
        };
        let ended = ended.await;
        shared.state().subscribed = false;
        if let Err(fault) = ended {
            failures += 1;
            let (chain, provider) = (&*shared.chain, &*shared.config.name);
            tracing::debug!(chain, provider, %fault, "the WebSocket of a provider has ended");
            tokio::time::sleep(backoff.delay(failures).max(RETRY_MIN / 2)).await;
        }
    }
}

/// Connects, lets the provider tell its chain, and subscribes.
pub(super) async fn open(shared: &Shared, target: &WsTarget, tls: &Tls) -> Result<Socket, Fault> {
    let host = target.host.as_str();
    let lost = |error: std::io::Error| Fault::Connect(chain(&error));
    let stream = TcpStream::connect((host, target.port))
        .await
        .map_err(lost)?;
    stream.set_nodelay(true).map_err(lost)?;
    let stream: Box<dyn Stream> = match target.is_tls {
        false => Box::new(stream),
        true => {
            let config = Arc::new(tls.get().await.map_err(lost)?);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| Fault::Connect("its host is no name for TLS".into()))?;
            Box::new(
                TlsConnector::from(config)
                    .connect(name, stream)
                    .await
                    .map_err(lost)?,
            )
        }
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let request = target.uri.clone().into_client_request();
    let mut request = request.map_err(|error| no_socket(&error))?;
    request.headers_mut().extend(target.headers.clone());
    let opened = client_async_with_config(request, stream, Some(config)).await;
    let (mut socket, _) = opened.map_err(|error| no_socket(&error))?;
    let id = ask(shared, &mut socket, "eth_chainId", b"[]").await?;
    let found = number(&id).ok_or(Fault::NotRpc("no chain id"))?;
    if found != shared.chain_id {
        return Err(Unused::WrongChain { found }.into());
    }
    ask(shared, &mut socket, "eth_subscribe", br#"["newHeads"]"#).await?;
    shared.state().subscribed = true;
    Ok(socket)
}

/// The result of a call over a socket that has no other one.
async fn ask(
    shared: &Shared,
    socket: &mut Socket,
    method: &str,
    params: &[u8],
) -> Result<bytes::Bytes, Fault> {
    let id = shared.ids(1);
    let call: [(&str, &[u8]); 1] = [(method, params)];
    let text = String::from_utf8(write(id, call.into_iter())).unwrap_or_default();
    let sent = socket.send(Message::text(text)).await;
    sent.map_err(|error| no_socket(&error))?;
    loop {
        let Some(message) = next(socket).await? else {
            continue;
        };
        // A block may come before the answer.
        let Ok(Answers::Each(mut each)) = read(&message, id, 1) else {
            continue;
        };
        return match each.pop().flatten() {
            Some(Member::Result(result)) => Ok(result),
            _ => Err(Fault::NotRpc("it refuses the subscription")),
        };
    }
}

/// The next message with text, if the next one is.
async fn next(socket: &mut Socket) -> Result<Option<bytes::Bytes>, Fault> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => Ok(Some(text.into())),
        Some(Ok(Message::Close(_))) | None => Err(Fault::Torn),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(no_socket(&error)),
    }
}

/// Takes each block, until nobody uses the provider.
async fn follow(shared: &Shared, socket: &mut Socket) -> Result<(), Fault> {
    let mut heard = Instant::now();
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = next(socket) => {
                heard = Instant::now();
                if let Some(block) = message?.as_deref().and_then(told_block) {
                    shared.told_head(block, true);
                }
            }
            _ = ping.tick() => {
                if !shared.is_followed() {
                    socket.close(None).await.ok();
                    return Ok(());
                }
                if heard.elapsed() > SILENT_MAX {
                    return Err(Fault::Timeout(SILENT_MAX));
                }
                let sent = timeout(PING_EVERY, socket.send(Message::Ping(Vec::new().into()))).await;
                let sent = sent.map_err(|_| Fault::Timeout(PING_EVERY))?;
                sent.map_err(|error| no_socket(&error))?;
            }
        }
    }
}

#[derive(Deserialize)]
struct Notification<'a> {
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    result: &'a RawValue,
}

fn told_block(text: &[u8]) -> Option<Block> {
    let notification: Notification<'_> = serde_json::from_slice(text).ok()?;
    Block::read(notification.params.result.get().as_bytes())
}

/// Without the URL, which some of these errors contain.
fn no_socket(error: &Error) -> Fault {
    match error {
        Error::Http(answer) => Fault::Status(answer.status().as_u16()),
        Error::Io(error) => Fault::Connect(chain(error)),
        Error::Capacity(_) => Fault::TooLarge {
            max: MESSAGE_MAX as u64,
        },
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_) => Fault::Torn,
        _ => Fault::NotRpc("it is no WebSocket"),
    }
}
