//! Connections over a WebSocket: how many one client has, and that none of its messages holds up the others.

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::header::{CONNECTION, RETRY_AFTER, UPGRADE};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::nodes::Gateway;
use crate::socket::Socket;
use crate::{problem, start};

/// Sends a call whose id is its method.
async fn send(socket: &mut Socket, method: &str, params: Value) {
    let call = json!({ "jsonrpc": "2.0", "id": method, "method": method, "params": params });
    socket.send(&call).await;
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
    let first = Socket::try_open(&server, "ethereum").await.unwrap();
    let _second = Socket::try_open(&server, "ethereum").await.unwrap();
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
        Socket::try_open(&server, "ethereum")
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
    let mut socket = Socket::try_open(&server, "ethereum").await.unwrap();
    // More than there are messages at once.
    for _ in 0..100 {
        send(&mut socket, "eth_subscribe", json!(["newHeads"])).await;
    }
    send(&mut socket, "eth_sendTransaction", json!([{}])).await;
    let answer = socket.message().await;
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!("eth_sendTransaction"), &json!(-32601)),
        "{answer}"
    );
    socket.ping("are you there").await;
    let pong = async {
        loop {
            match socket.next().await {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    };
    assert_eq!(pong.await, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_does_not_wait_for_its_clients() {
    let mut server = start("server.shutdown_deadline = '1h'");
    let mut socket = Socket::try_open(&server, "ethereum").await.unwrap();
    server.signal(Signal::SIGTERM);
    let message = socket.next().await;
    let Message::Close(Some(reason)) = message else {
        panic!("no close: {message:?}");
    };
    assert_eq!(reason.code, CloseCode::Away);
    drop(socket);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_knows_a_subscription_before_it_is_told_something_and_can_end_it_at_once() {
    let Some(gateway) = Gateway::start(1, "").await else {
        return;
    };
    let mut socket = Socket::open(&gateway).await;
    for _ in 0..3 {
        send(&mut socket, "eth_subscribe", json!(["newHeads"])).await;
        let id = socket.message().await["result"].clone();
        gateway.node.mine(1).await;
        let head = socket.message().await;
        assert_eq!(head["params"]["subscription"], id, "{head}");
        assert!(head["params"]["result"]["hash"].is_string(), "{head}");
        for expected in [true, false] {
            send(&mut socket, "eth_unsubscribe", json!([id])).await;
            let mut answer = socket.message().await;
            while expected && answer["id"].is_null() {
                answer = socket.message().await;
            }
            assert_eq!(answer["result"], expected, "{answer}");
        }
        // Of a subscription that has ended, nothing comes.
        gateway.node.mine(1).await;
        send(&mut socket, "eth_chainId", json!([])).await;
        assert_eq!(socket.message().await["id"], "eth_chainId");
    }
}
