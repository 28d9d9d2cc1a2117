//! Keys of providers appear nowhere but in requests.

use headroom_test_support::rpc_proxy::RpcFault;

use super::*;
use crate::kernel::testing::log::TestLog;

const KEYS: [&str; 5] = [
    "path-key-1",
    "query-key-2",
    "user-name-3",
    "pass-word-4",
    "header-key-5",
];

fn secret(url: &str) -> ProviderConfig {
    let host = url.strip_prefix("http://").unwrap();
    let [path, query, user, password, header] = KEYS;
    let ws_url = format!("ws://{user}:{password}@{host}/v2/{path}?key={query}");
    ProviderConfig {
        ws_url: Some(ProviderUrl::new(ws_url)),
        headers: vec![("x-api-key".into(), Secret::new(header))],
        ..config(&format!(
            "http://{user}:{password}@{host}/v2/{path}?key={query}"
        ))
    }
}

fn assert_hidden(text: &str) {
    for key in KEYS {
        assert!(!text.contains(key), "{key} in {text}");
    }
}

#[test]
fn keys_are_sent_and_never_shown() {
    with_node(async |system, anvil, proxy| {
        let log = TestLog::default();
        let _listening = log.listen();
        let config = secret(&proxy.url());
        assert_hidden(&format!("{config:?}"));
        // anvil answers at every path.
        proxy.set_target(anvil.url());
        let provider = TestProvider::start(&system, config).await;
        let head = proxy.last_head();
        assert!(
            head.starts_with("POST /v2/path-key-1?key=query-key-2 "),
            "{head}"
        );
        assert!(head.contains("x-api-key: header-key-5"), "{head}");
        // user-name-3:pass-word-4
        assert!(
            head.contains("authorization: Basic dXNlci1uYW1lLTM6cGFzcy13b3JkLTQ="),
            "{head}"
        );
        assert!(!head.contains("accept-encoding"), "{head}");

        // A provider that repeats the keys in its errors, of which some are the callers'.
        for (code, of) in [(-32603, "provider"), (3, "caller"), (-32601, "method")] {
            proxy.clear();
            let message = format!("{of}: {}", KEYS.join(", "));
            proxy.set_for(&["eth_call"], RpcFault::Error(code, message));
            let result = provider.send("eth_call", &json!([{}])).await;
            assert_hidden(&format!("{result:?}"));
            if let Err(fault) = result {
                assert_hidden(&fault.to_string());
            }
        }
        for fault in [RpcFault::Html, RpcFault::Status(401), RpcFault::Reset] {
            proxy.clear();
            proxy.set_for(&["eth_blockNumber"], fault);
            assert_hidden(&format!("{:?}", provider.number().await.unwrap_err()));
        }
        let url = proxy.url();
        drop(proxy);
        for _ in 0..3 {
            let fault = provider.number().await.unwrap_err();
            assert_hidden(&format!("{fault:?} {fault}"));
        }
        let status = provider.status().await;
        assert_eq!(status.url, url);
        assert_hidden(&serde_json::to_string(&status).unwrap());
        let tree = system.tree().snapshot().await;
        assert_hidden(&format!("{tree:?}"));
        provider.stop().await;
        let log = log.lines().join("\n");
        assert!(
            log.contains("the WebSocket of a provider has ended"),
            "{log}"
        );
        assert_hidden(&log);
    });
}

#[test]
fn an_unusable_url_is_no_panic_and_is_not_shown() {
    TestSystem::real_time(async |system| {
        for url in [
            "ftp://host/path-key-1",
            "http:///path-key-1",
            "http://a b/path-key-1",
            "",
        ] {
            let config = config(url);
            let fault = crate::chain::check_url(config.url.expose()).unwrap_err();
            assert_hidden(&format!("{fault:?} {fault}"));
            let handle = Provider::handle(&config);
            let (heads, _) = watch::channel(None);
            let surroundings = Surroundings {
                chain: "test".into(),
                chain_id: CHAIN_ID,
                block_time: Duration::from_secs(1),
                drained: Arc::default(),
                heads,
                buffers: Arc::new(FixedBuffers::new(MIB)),
                pressure: channel().1,
                tls: Tls::default(),
            };
            let (child, _) = Provider::child(&handle, config, surroundings);
            let spec = SupervisorSpec::new("root").child(child);
            let exit = crate::kernel::Root::start(spec, system.tree())
                .await
                .map(drop);
            assert_hidden(&format!("{:?}", exit.unwrap_err()));
        }
    });
}
