//! A WebSocket to the gateway.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
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
    pub(crate) async fn open(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.server.address()).await.unwrap();
        let (stream, _) = client_async(gateway.ws_url(), stream).await.unwrap();
        Self {
            stream,
            notifications: VecDeque::new(),
        }
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

    async fn message(&mut self) -> Value {
        loop {
            let message = timeout(DEADLINE, self.stream.next()).await;
            let message = message.expect("a message").expect("no end").unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}
