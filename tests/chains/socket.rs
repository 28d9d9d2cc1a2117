//! A WebSocket to the gateway.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use headroom_test_support::server::Server;
use headroom_test_support::wait::DEADLINE;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::nodes::Gateway;

/// A client's connection.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Notifications that came before an answer.
    notifications: VecDeque<Value>,
}

impl Socket {
    /// Opens one to a chain. `None` if it is refused.
    pub(crate) async fn try_open(server: &Server, chain: &str) -> Option<Self> {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let url = server.url(&format!("/rpc/{chain}"));
        let (stream, _) = client_async(url.replacen("http", "ws", 1), stream)
            .await
            .ok()?;
        Some(Self {
            stream,
            notifications: VecDeque::new(),
        })
    }

    pub(crate) async fn open(gateway: &Gateway) -> Self {
        Self::try_open(&gateway.server, "dev").await.unwrap()
    }

    /// Sends a ping.
    pub(crate) async fn ping(&mut self, text: &'static str) {
        self.stream.send(Message::Ping(text.into())).await.unwrap();
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, request: &Value) {
        let text = Message::text(request.to_string());
        self.stream.send(text).await.unwrap();
    }

    /// The whole answer of a call.
    pub(crate) async fn answer(&mut self, method: &str, params: &Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.send(&call).await;
        loop {
            let message = self.message().await;
            match message.get("id") {
                Some(_) => return message,
                None => self.notifications.push_back(message),
            }
        }
    }

    /// Subscribes. Returns the id.
    pub(crate) async fn subscribe(&mut self, params: Value) -> Value {
        let mut answer = self.answer("eth_subscribe", &params).await;
        assert!(answer["result"].is_string(), "{answer}");
        answer["result"].take()
    }

    /// The next notification: of which subscription, and what it tells.
    pub(crate) async fn notification(&mut self) -> (Value, Value) {
        let mut message = match self.notifications.pop_front() {
            Some(message) => message,
            None => self.message().await,
        };
        let params = &mut message["params"];
        (params["subscription"].take(), params["result"].take())
    }

    /// The next message with a text, an answer or a notification.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.next().await {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Message {
        let message = timeout(DEADLINE, self.stream.next()).await;
        message.expect("a message").expect("no end").unwrap()
    }
}
