//! The chain, the circuit, the newest blocks, and what operators do.

use headroom_test_support::anvil::AnvilOptions;
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;
use crate::chain::block::Block;

#[test]
fn a_provider_of_another_chain_is_never_used() {
    with_node(async |system, _anvil, proxy| {
        proxy.set_for(&["eth_chainId"], RpcFault::Result(json!("0x1")));
        let provider = TestProvider::begin(&system, config(&proxy.url())).await;
        provider
            .until(|status| status.state == ProviderState::WrongChain)
            .await;
        assert_eq!(
            provider.standing("eth_call").unwrap_err(),
            Unused::WrongChain { found: 1 }
        );
        let fault = provider.number().await.unwrap_err();
        assert!(
            matches!(fault, Fault::Unused(Unused::WrongChain { found: 1 })),
            "{fault}"
        );
        assert_eq!(proxy.calls("eth_blockNumber"), 0);
        // It is asked again, and used once it serves the right one.
        proxy.clear();
        provider
            .until(|status| status.state == ProviderState::Ready)
            .await;
        provider.number().await.unwrap();
        provider.stop().await;
    });
}

#[test]
fn after_a_reconnect_no_answer_is_passed_on_before_the_chain_is_told_again() {
    let Some(mut anvil) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(async |system| {
        // Without a proxy: its connections would outlive the node.
        let provider = TestProvider::start(&system, config(&anvil.url())).await;
        provider.number().await.unwrap();
        let port = anvil.port();
        anvil.kill();
        let other = AnvilOptions::default().chain_id(5).port(port);
        let other = Anvil::start_with(&other).unwrap();
        other.mine(7).await;
        loop {
            match provider.number().await {
                Err(Fault::Unused(Unused::WrongChain { found: 5 })) => break,
                Err(Fault::Connect(_) | Fault::Torn) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_ne!(
            provider
                .heads
                .borrow()
                .as_ref()
                .map(|head| head.block.number),
            Some(7)
        );
        provider.stop().await;
    });
}

#[test]
fn a_provider_that_fails_is_left_out_until_a_check_succeeds() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        proxy.set(RpcFault::Status(503));
        let mut failed = 0;
        while provider.standing("eth_blockNumber").is_ok() {
            provider.number().await.unwrap_err();
            failed += 1;
            assert!(failed < 100);
        }
        let unused = provider.standing("eth_blockNumber").unwrap_err();
        assert!(matches!(unused, Unused::CircuitOpen { .. }), "{unused}");
        let before = proxy.calls("eth_blockNumber");
        let fault = provider.number().await.unwrap_err();
        assert!(
            matches!(fault, Fault::Unused(Unused::CircuitOpen { .. })),
            "{fault}"
        );
        assert_eq!(proxy.calls("eth_blockNumber"), before, "no call is a probe");
        // A failed probe leaves it open.
        let probes = proxy.calls("eth_chainId");
        let end = Instant::now() + LONG;
        while proxy.calls("eth_chainId") < probes + 2 {
            assert!(Instant::now() < end);
            provider.standing("eth_blockNumber").unwrap_err();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        proxy.clear();
        let told = proxy.calls("eth_chainId");
        provider
            .until(|status| status.state == ProviderState::Ready)
            .await;
        assert!(
            proxy.calls("eth_chainId") > told,
            "it has told its chain again"
        );
        provider.number().await.unwrap();
        provider.stop().await;
    });
}

#[test]
fn errors_of_callers_and_of_single_calls_open_no_circuit() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        for (code, message) in [(3, "execution reverted"), (-32603, "Internal error")] {
            proxy.clear();
            proxy.set_for(&["eth_call"], RpcFault::Error(code, message.into()));
            for _ in 0..50 {
                drop(provider.send("eth_call", &json!([{}, "latest"])).await);
            }
            assert!(provider.standing("eth_call").is_ok());
        }
        let status = provider.status().await;
        assert_eq!(
            (status.total.caller_errors, status.total.provider_errors),
            (50, 50)
        );
        provider.stop().await;
    });
}

#[test]
fn new_blocks_and_reorganised_ones_are_told() {
    with_node(async |system, anvil, proxy| {
        let mut provider = TestProvider::start(&system, config(&proxy.url())).await;
        anvil.mine(5).await;
        let is_fifth =
            |head: &Option<Head>| head.as_ref().is_some_and(|head| head.block.number == 5);
        let told = tokio::time::timeout(LONG, provider.heads.wait_for(is_fifth)).await;
        let told = told.unwrap().unwrap().unwrap().block;
        let block = anvil
            .call("eth_getBlockByNumber", json!(["latest", false]))
            .await;
        assert_eq!(Block::read(block.to_string().as_bytes()), Some(told));
        anvil.reorg(2).await;
        let is_other = |other: &Option<Head>| {
            let other = other.as_ref().map(|other| other.block);
            other.is_some_and(|other| other.number == 5 && other.hash != told.hash)
        };
        let told = tokio::time::timeout(LONG, provider.heads.wait_for(is_other)).await;
        drop(told.unwrap().unwrap());
        let standing = provider.standing("eth_call").unwrap();
        assert_eq!(standing.head.unwrap().block.number, 5);
        assert!(provider.view.glance(Instant::now()).finalized.is_some());
        provider.stop().await;
    });
}

#[test]
fn a_provider_that_synchronises_is_not_used() {
    with_node(async |system, _anvil, proxy| {
        let far =
            json!({ "startingBlock": "0x0", "currentBlock": "0x10", "highestBlock": "0xffff" });
        proxy.set_for(&["eth_syncing"], RpcFault::Result(far));
        let provider = TestProvider::begin(&system, config(&proxy.url())).await;
        provider
            .until(|status| status.state == ProviderState::Syncing)
            .await;
        assert_eq!(provider.standing("eth_call").unwrap_err(), Unused::Syncing);
        provider.stop().await;
    });
}

#[test]
fn a_drained_provider_ends_its_calls_and_gets_no_new_ones() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        proxy.set_for(
            &["eth_gasPrice"],
            RpcFault::Delay(Duration::from_millis(300)),
        );
        let running = async { provider.result("eth_gasPrice", &json!([])).await };
        let drained = async {
            provider.until(|status| status.calls_in_flight == 1).await;
            provider.handle.ask(SetDrained(true), LONG).await.unwrap();
            let fault = provider.number().await.unwrap_err();
            assert!(matches!(fault, Fault::Unused(Unused::Drained)), "{fault}");
        };
        let (price, ()) = tokio::join!(running, drained);
        assert!(price.is_string());
        assert_eq!(provider.status().await.state, ProviderState::Drained);
        provider.handle.ask(SetDrained(false), LONG).await.unwrap();
        provider.number().await.unwrap();
        provider.stop().await;
    });
}

#[test]
fn what_is_known_outlives_a_restart_of_the_actor() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        let view = Arc::clone(&provider.view);
        let handle = provider.handle.clone();
        provider.number().await.unwrap();
        provider.stop().await;
        assert!(!handle.is_up());
        let standing = view.standing("eth_blockNumber", Weight::Light, Instant::now());
        assert!(standing.unwrap().latency.is_some());
    });
}

#[test]
fn idle_connections_are_closed_when_memory_is_short() {
    use crate::kernel::pressure::{Level, Stage};
    with_node(async |system, _anvil, proxy| {
        // Its health is checked only once, so all calls use one connection.
        let never = Duration::from_secs(600);
        let provider =
            TestProvider::begin_with(&system, config(&proxy.url()), Tls::default(), never).await;
        provider.until(|status| status.head.is_some()).await;
        for _ in 0..20 {
            provider.number().await.unwrap();
        }
        let before = provider.status().await.connects;
        assert_eq!(before, 1);
        provider
            .pressure
            .publish(Level::High, Some(Stage::Connections), MIB);
        let end = Instant::now() + LONG;
        loop {
            provider.number().await.unwrap();
            if provider.status().await.connects > before {
                break;
            }
            assert!(Instant::now() < end);
        }
        provider.stop().await;
    });
}
