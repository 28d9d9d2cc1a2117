//! The actor of a provider against a real anvil, behind a proxy that makes faults.

mod calls;
mod faults;
mod health;
mod limits;
mod secrets;
mod sockets;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headroom_test_support::anvil::{Anvil, CHAIN_ID};
use headroom_test_support::rpc_proxy::RpcProxy;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    Fault, Head, Provider, ProviderState, ProviderStatus, ReadStatus, Send, SetDrained, Standing,
    Surroundings, Tls, Unused, View,
};
use crate::chain::config::{ProviderConfig, ProviderUrl, Secret};
use crate::chain::methods::{Method, Weight};
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::pressure::{PressureWriter, channel};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::kernel::{Handle, Root, SupervisorSpec};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(30);

const MIB: u64 = 1024 * 1024;

fn config(url: &str) -> ProviderConfig {
    ProviderConfig {
        name: "one".into(),
        url: ProviderUrl::new(url),
        ws_url: None,
        headers: Vec::new(),
        cost: 1.0,
        rate_max: None,
        in_flight_max: 64,
        batch_max: 1,
        batch_wait: Duration::from_millis(2),
        timeout: Duration::from_secs(10),
        answer_max: 64 * MIB,
        logs_range_max: None,
    }
}

struct TestProvider {
    handle: Handle<Provider>,
    view: Arc<dyn View>,
    heads: watch::Receiver<Option<Head>>,
    buffers: FixedBuffers,
    pressure: PressureWriter,
    root: Root,
}

impl TestProvider {
    /// Starts one without waiting until it is used.
    async fn begin(system: &TestSystem, config: ProviderConfig) -> Self {
        Self::begin_with(system, config, Tls::default(), Duration::from_secs(1)).await
    }

    async fn begin_with(
        system: &TestSystem,
        config: ProviderConfig,
        tls: Tls,
        block_time: Duration,
    ) -> Self {
        let (buffers, (pressure, reader)) = (FixedBuffers::new(256 * MIB), channel());
        let (heads, received) = watch::channel(None);
        let handle = Provider::handle(&config);
        let surroundings = Surroundings {
            chain: "test".into(),
            chain_id: CHAIN_ID,
            block_time,
            drained: Arc::default(),
            heads,
            buffers: Arc::new(buffers.clone()),
            pressure: reader,
            tls,
        };
        let (child, view) = Provider::child(&handle, config, surroundings);
        let root = system.start(SupervisorSpec::new("root").child(child)).await;
        Self {
            handle,
            view,
            heads: received,
            buffers,
            pressure,
            root,
        }
    }

    /// Starts one, and waits until it is used and has told its newest block.
    async fn start(system: &TestSystem, config: ProviderConfig) -> Self {
        let provider = Self::begin(system, config).await;
        provider
            .until(|status| status.state == ProviderState::Ready && status.head.is_some())
            .await;
        provider
    }

    async fn send(&self, method: &str, params: &Value) -> Result<Outcome, Fault> {
        let call = Arc::new(Call::new(method, params.to_string()));
        self.handle.ask(Send { call }, LONG).await.unwrap()
    }

    /// The result of a call that has one.
    async fn result(&self, method: &str, params: &Value) -> Value {
        match self.send(method, params).await {
            Ok(Outcome::Result(text)) => serde_json::from_slice(&text).unwrap(),
            other => panic!("{method}: {other:?}"),
        }
    }

    async fn number(&self) -> Result<Outcome, Fault> {
        self.send("eth_blockNumber", &json!([])).await
    }

    async fn status(&self) -> ProviderStatus {
        self.handle.ask(ReadStatus, LONG).await.unwrap()
    }

    fn standing(&self, method: &str) -> Result<Standing, Unused> {
        let weight = Method::of(method).weight;
        self.view.standing(method, weight, Instant::now())
    }

    /// Waits until the status is as wanted.
    async fn until(&self, is_wanted: impl Fn(&ProviderStatus) -> bool) -> ProviderStatus {
        let end = Instant::now() + LONG;
        loop {
            let status = self.status().await;
            if is_wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stop(self) {
        self.root.stop().await;
        assert_eq!(self.buffers.held(), 0, "all memory is given back");
    }
}

/// Runs a test with a node, and a proxy in front of it.
fn with_node<F: Future<Output = ()>>(test: impl FnOnce(TestSystem, Anvil, RpcProxy) -> F) {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    let proxy = RpcProxy::start(anvil.url());
    TestSystem::real_time(|system| test(system, anvil, proxy));
}
