//! A server with a chain whose providers are proxies in front of real nodes.

use headroom_test_support::anvil::{ACCOUNT, Anvil, AnvilOptions, CHAIN_ID};
use headroom_test_support::rpc_proxy::RpcProxy;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use super::BINARY;

/// A chain behind a server.
pub(crate) struct Gateway {
    pub(crate) server: Server,
    pub(crate) node: Anvil,
    pub(crate) proxies: Vec<RpcProxy>,
}

/// The settings of a chain with these providers.
pub(crate) fn settings(urls: &[String]) -> String {
    let mut settings =
        format!("[chains.dev]\nid = {CHAIN_ID}\nblock_time = '200ms'\nfinality_depth = 64\n");
    for (index, url) in urls.iter().enumerate() {
        settings += &format!("[chains.dev.providers.p{index}]\nurl = '{url}'\n");
    }
    settings
}

impl Gateway {
    /// Starts one with so many providers of one node, and further settings. `None` where there is no node.
    pub(crate) async fn start(providers: usize, more: &str) -> Option<Self> {
        Self::start_before(Anvil::start()?, providers, more).await
    }

    /// As [`Gateway::start`], of a node that mines a block each second.
    pub(crate) async fn start_mining(providers: usize, more: &str) -> Option<Self> {
        let node = Anvil::start_with(&AnvilOptions::default().block_time(1))?;
        Self::start_before(node, providers, more).await
    }

    /// As [`Gateway::start`], of this node.
    pub(crate) async fn start_before(node: Anvil, providers: usize, more: &str) -> Option<Self> {
        let proxies: Vec<_> = (0..providers)
            .map(|_| RpcProxy::start(node.url()))
            .collect();
        let urls: Vec<_> = proxies.iter().map(RpcProxy::url).collect();
        let settings = format!("{more}\n{}", settings(&urls));
        let server = Server::start(Options::new(BINARY).settings(&settings));
        let gateway = Self {
            server,
            node,
            proxies,
        };
        gateway.wait_until_all_are_used().await;
        Some(gateway)
    }

    pub(crate) fn url(&self) -> String {
        self.server.url("/rpc/dev")
    }

    pub(crate) fn ws_url(&self) -> String {
        self.url().replacen("http", "ws", 1)
    }

    /// The whole answer of a call.
    pub(crate) async fn answer(&self, method: &str, params: &Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.server.post_json("/rpc/dev", &call).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json
    }

    /// The JSON that this URL answers to `body`: the gateway's, or the node's.
    pub(crate) async fn post(&self, url: &str, body: &Value) -> Value {
        let answer = self.server.client().post(url).json(body).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// What `GET /api/chains/dev` says.
    pub(crate) async fn status(&self) -> Value {
        self.server.get_json("/api/chains/dev").await.ok()["status"].take()
    }

    /// Makes a call whose answer is not kept, so that providers do not rest.
    async fn ask_a_provider(&self) {
        let params = json!([ACCOUNT, "pending"]);
        self.answer("eth_getTransactionCount", &params).await;
    }

    /// Waits until the gateway says that its head is that of this node. Calls keep the providers from resting meanwhile.
    pub(crate) async fn wait_for_head_of(&self, node: &Anvil) {
        wait_for_async(DEADLINE, || async {
            self.ask_a_provider().await;
            let (status, newest) = (self.status().await, node.newest().await);
            let is_told = status["head_hash"] == newest["hash"];
            is_told.then_some(()).ok_or((status, newest))
        })
        .await;
    }

    /// Waits until each provider is used. Calls keep them from resting meanwhile.
    pub(crate) async fn wait_until_all_are_used(&self) {
        wait_for_async(DEADLINE, || async {
            self.ask_a_provider().await;
            let status = self.status().await;
            let providers = status["providers"].as_array().cloned().unwrap_or_default();
            let used = providers.iter().filter(|it| it["is_used"] == true);
            let all = used.count() == self.proxies.len();
            all.then_some(()).ok_or(status)
        })
        .await;
    }
}
