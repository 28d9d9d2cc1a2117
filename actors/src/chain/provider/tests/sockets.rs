//! The WebSocket that tells new blocks.

use std::net::SocketAddr;

use crate::kernel::testing::proxy::{Fault as LineFault, Proxy};

use super::*;

/// Long enough that no block is asked for while the test runs.
pub(super) const NEVER: Duration = Duration::from_secs(600);

fn node(anvil: &Anvil) -> SocketAddr {
    ([127, 0, 0, 1], anvil.port()).into()
}

/// Waits until it has told this block.
pub(super) async fn told(provider: &mut TestProvider, number: u64) {
    let is_it = |head: &Option<Head>| {
        head.as_ref()
            .is_some_and(|head| head.block.number == number)
    };
    let told = tokio::time::timeout(LONG, provider.heads.wait_for(is_it)).await;
    drop(told.unwrap().unwrap());
}

#[test]
fn blocks_are_told_over_the_websocket_also_after_a_reconnect() {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(async |system| {
        let line = Proxy::start(node(&anvil)).await;
        let config = ProviderConfig {
            ws_url: Some(ProviderUrl::new(format!("ws://{}", line.address()))),
            ..config(&anvil.url())
        };
        let mut provider = TestProvider::begin_with(&system, config, Tls::default(), NEVER).await;
        provider.until(|status| status.subscribed).await;
        anvil.mine(3).await;
        told(&mut provider, 3).await;
        line.set_faults(LineFault::Close, LineFault::None);
        provider
            .until(|status| !status.subscribed || line.accepted() > 1)
            .await;
        provider
            .until(|status| status.subscribed && line.accepted() > 1)
            .await;
        anvil.mine(1).await;
        told(&mut provider, 4).await;
        provider.handle.ask(SetDrained(true), LONG).await.unwrap();
        provider.stop().await;
    });
}

#[test]
fn a_websocket_of_another_chain_is_not_followed() {
    use headroom_test_support::anvil::AnvilOptions;
    let other = AnvilOptions::default().chain_id(5);
    let (Some(anvil), Some(other)) = (Anvil::start(), Anvil::start_with(&other)) else {
        return;
    };
    TestSystem::real_time(async |system| {
        let line = Proxy::start(node(&other)).await;
        let config = ProviderConfig {
            ws_url: Some(ProviderUrl::new(format!("ws://{}", line.address()))),
            ..config(&anvil.url())
        };
        let provider = TestProvider::start(&system, config).await;
        // It tries again, and the provider stays in use.
        let status = provider.until(|_| line.accepted() > 1).await;
        assert_eq!(
            (status.subscribed, status.state),
            (false, ProviderState::Ready)
        );
        provider.number().await.unwrap();
        provider.stop().await;
    });
}
