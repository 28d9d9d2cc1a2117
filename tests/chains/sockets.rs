//! Connections over a WebSocket: how many one client has, and that none of its messages holds up the others.

use futures_util::{SinkExt, StreamExt};
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::header::{CONNECTION, RETRY_AFTER, UPGRADE};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::nodes::Gateway;
use crate::{problem, start};

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens one to a chain. `None` if it is refused.
    async fn open(server: &Server, chain: &str) -> Option<Self> {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let url = server
            .url(&format!("/rpc/{chain}"))
            .replacen("http", "ws", 1);
        let (socket, _) = client_async(url, stream).await.ok()?;
        Some(Self(socket))
    }

    async fn send(&mut self, method: &str, params: Value) {
        let call = json!({ "jsonrpc": "2.0", "id": method, "method": method, "params": params });
        let sent = self.0.send(Message::text(call.to_string()));
        sent.await.unwrap();
    }

    /// The next message, beside the pings of the server.
    async fn next(&mut self) -> Message {
        let next = async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Ping(_) => {}
                    message => return message,
                }
            }
        };
        timeout(DEADLINE, next).await.unwrap()
    }

    /// The next message, which is an answer.
    async fn answer(&mut self) -> Value {
        let Message::Text(text) = self.next().await else {
            panic!("no answer");
        };
        serde_json::from_str(&text).unwrap()
    }
}

/// The value of a metric of the chain.
async fn metric(server: &Server, name: &str, labels: &str) -> Option<String> {
    let metrics = server.metrics().await;
    let series = format!("headroom_rpc_{name}{{chain=\"ethereum\"{labels}}} ");
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(&series).map(str::to_owned))
}

#[tokio::test]
async fn a_client_has_at_most_so_many_connections() {
    let server = start("rpc.client_websockets_max = 2");
    let first = Socket::open(&server, "ethereum").await.unwrap();
    let _second = Socket::open(&server, "ethereum").await.unwrap();
    let refused = server
        .client()
        .get(server.url("/rpc/ethereum"))
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .send()
        .await
        .unwrap();
    assert_eq!(refused.headers()[RETRY_AFTER], "5");
    let problem = problem(refused, 429, "too-many-requests").await;
    assert_eq!(
        problem["detail"],
        "this client has 2 WebSocket connections, which is the most; close one, or subscribe over one that is open"
    );
    assert_eq!(metric(&server, "websockets", "").await.unwrap(), "2");
    let refused = metric(&server, "websockets_refused_total", ",reason=\"client\"");
    assert_eq!(refused.await.unwrap(), "1");
    // The place of one that has ended is free.
    drop(first);
    wait_for_async(DEADLINE, async || {
        Socket::open(&server, "ethereum")
            .await
            .map(drop)
            .ok_or("refused")
    })
    .await;
}

#[tokio::test]
async fn a_chain_that_is_slow_to_become_ready_holds_up_no_other_message() {
    // No provider of it can be reached, so nobody learns of its blocks.
    let server = start("");
    let mut socket = Socket::open(&server, "ethereum").await.unwrap();
    // More than there are messages at once.
    for _ in 0..100 {
        socket.send("eth_subscribe", json!(["newHeads"])).await;
    }
    socket.send("eth_sendTransaction", json!([{}])).await;
    let answer = socket.answer().await;
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!("eth_sendTransaction"), &json!(-32601)),
        "{answer}"
    );
    let ping = Message::Ping("are you there".into());
    socket.0.send(ping).await.unwrap();
    assert_eq!(socket.next().await, Message::Pong("are you there".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_knows_a_subscription_before_it_is_told_something_and_can_end_it_at_once() {
    let Some(gateway) = Gateway::start(1, "").await else {
        return;
    };
    let mut socket = Socket::open(&gateway.server, "dev").await.unwrap();
    for _ in 0..3 {
        socket.send("eth_subscribe", json!(["newHeads"])).await;
        let id = socket.answer().await["result"].clone();
        gateway.node.mine(1).await;
        let head = socket.answer().await;
        assert_eq!(head["params"]["subscription"], id, "{head}");
        assert!(head["params"]["result"]["hash"].is_string(), "{head}");
        for expected in [true, false] {
            socket.send("eth_unsubscribe", json!([id])).await;
            let mut answer = socket.answer().await;
            while expected && answer["id"].is_null() {
                answer = socket.answer().await;
            }
            assert_eq!(answer["result"], expected, "{answer}");
        }
        // Of a subscription that has ended, nothing comes.
        gateway.node.mine(1).await;
        socket.send("eth_chainId", json!([])).await;
        assert_eq!(socket.answer().await["id"], "eth_chainId");
    }
}
