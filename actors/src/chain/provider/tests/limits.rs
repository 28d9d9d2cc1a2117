//! Rates, and how much a provider has at once.

use futures_util::future::join_all;
use headroom_test_support::rpc_proxy::RpcFault;

use super::*;

#[test]
fn more_calls_than_the_rate_allows_are_refused_at_once() {
    with_node(async |system, _anvil, proxy| {
        let limited = ProviderConfig {
            rate_max: Some(20.0),
            ..config(&proxy.url())
        };
        let provider = TestProvider::start(&system, limited).await;
        let results = join_all((0..60).map(|_| provider.number())).await;
        let refused = |result: &Result<_, _>| match result {
            Err(Fault::Unused(Unused::Throttled { until })) => Some(*until),
            _ => None,
        };
        let refused: Vec<_> = results.iter().filter_map(refused).collect();
        let answered = results.iter().filter(|result| result.is_ok()).count();
        assert!(answered >= 1 && refused.len() >= 30, "{results:?}");
        assert_eq!(answered + refused.len(), 60, "{results:?}");
        drop(results);
        assert!(refused[0] < Instant::now() + Duration::from_secs(2));
        // It takes calls again by itself.
        let end = Instant::now() + LONG;
        while let Err(fault) = provider.number().await {
            assert!(Instant::now() < end, "{fault}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let status = provider.status().await;
        assert_eq!(
            (status.rate.configured, status.rate.learned),
            (Some(20.0), None)
        );
        provider.stop().await;
    });
}

#[test]
fn a_provider_that_throttles_gets_no_calls_until_it_said_and_fewer_after_that() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        proxy.set_times(1, &["eth_blockNumber"], RpcFault::Throttle(Some(2)));
        let sent = Instant::now();
        let fault = provider.number().await.unwrap_err();
        let two = Duration::from_secs(2);
        assert!(
            matches!(fault, Fault::Throttled { retry_after: Some(wait) } if wait == two),
            "{fault}"
        );
        let before = proxy.requests();
        let fault = provider.number().await.unwrap_err();
        let Fault::Unused(Unused::Throttled { until }) = fault else {
            panic!("{fault}");
        };
        assert!(until >= sent + two);
        let status = provider.status().await;
        assert_eq!(status.state, ProviderState::Throttled);
        assert!(status.rate.learned.is_some(), "{status:?}");
        assert!(status.throttle_rate > 0.0 && status.error_rate == 0.0);
        provider
            .until(|status| status.state == ProviderState::Ready)
            .await;
        assert!(Instant::now() >= sent + two);
        assert_eq!(proxy.calls("eth_blockNumber"), 1);
        assert!(
            proxy.requests() <= before + 2,
            "nor is its health checked meanwhile"
        );
        provider.number().await.unwrap();
        provider.stop().await;
    });
}

#[test]
fn an_error_of_json_rpc_throttles_as_well() {
    with_node(async |system, _anvil, proxy| {
        let provider = TestProvider::start(&system, config(&proxy.url())).await;
        let message = "daily request count exceeded, request rate limited";
        proxy.set_for(
            &["eth_blockNumber"],
            RpcFault::Error(-32005, message.into()),
        );
        let fault = provider.number().await.unwrap_err();
        assert!(
            matches!(fault, Fault::Throttled { retry_after: None }),
            "{fault}"
        );
        assert_eq!(provider.status().await.state, ProviderState::Throttled);
        provider.stop().await;
    });
}

#[test]
fn calls_that_come_at_the_same_moment_are_bounded_too() {
    with_node(async |system, _anvil, proxy| {
        let few = ProviderConfig {
            in_flight_max: 4,
            ..config(&proxy.url())
        };
        let provider = TestProvider::start(&system, few).await;
        proxy.set_for(
            &["eth_gasPrice"],
            RpcFault::Delay(Duration::from_millis(300)),
        );
        let none = json!([]);
        let results = join_all((0..60).map(|_| provider.send("eth_gasPrice", &none))).await;
        let sent = proxy.calls("eth_gasPrice");
        // A check of its health may have had a place.
        assert!((3..=4).contains(&sent), "{sent}");
        let refused = |result: &&_| matches!(result, Err(Fault::Unused(Unused::Full)));
        assert_eq!(results.iter().filter(refused).count() as u64, 60 - sent);
        drop(results);
        provider.stop().await;
    });
}

#[test]
fn a_provider_has_no_more_requests_at_once_than_it_may() {
    with_node(async |system, _anvil, proxy| {
        let few = ProviderConfig {
            in_flight_max: 2,
            ..config(&proxy.url())
        };
        let provider = TestProvider::start(&system, few).await;
        proxy.set_for(
            &["eth_gasPrice"],
            RpcFault::Delay(Duration::from_millis(300)),
        );
        let none = json!([]);
        let slow = || provider.send("eth_gasPrice", &none);
        let (one, two, three) = tokio::join!(slow(), slow(), async {
            provider
                .until(|status| status.requests_in_flight == 2)
                .await;
            assert_eq!(provider.standing("eth_gasPrice").unwrap_err(), Unused::Full);
            provider.number().await
        });
        one.unwrap();
        two.unwrap();
        assert!(
            matches!(three, Err(Fault::Unused(Unused::Full))),
            "{three:?}"
        );
        provider.number().await.unwrap();
        provider.stop().await;
    });
}
