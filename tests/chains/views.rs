//! What is said of chains, and what operators do with their providers.

use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use crate::{answer, call, phase, problem, start};

const BASE: &str = "chains.base.providers.node.url = 'http://user:key@127.0.0.1:1/key'\n\
                    chains.base.ttl = '1s'";

#[tokio::test]
async fn to_look_at_a_chain_never_opens_it() {
    let server = start(BASE);
    let get = async |path: &str| -> Value { server.get(path).await.json().await.unwrap() };
    for _ in 0..3 {
        let list = get("/api/chains").await;
        let chains = list["chains"].as_array().unwrap();
        let states: Vec<_> = chains
            .iter()
            .map(|it| (&it["name"], &it["state"]))
            .collect();
        let closed = json!("closed");
        assert_eq!(
            states,
            [(&json!("base"), &closed), (&json!("ethereum"), &closed)]
        );
        let one = get("/api/chains/8453").await;
        assert_eq!(
            (&one["name"], &one["state"], &one["status"]),
            (&json!("base"), &closed, &Value::Null)
        );
        let providers = get("/api/chains/base/providers").await;
        let node = &providers["providers"][0];
        assert_eq!(
            (&node["name"], &node["place"]),
            (&json!("node"), &Value::Null)
        );
        assert_eq!(node["url"], "http://127.0.0.1:1");
        assert_eq!(get("/api/status").await["chains"][0]["state"], closed);
        let section = get("/api/performance/metrics").await;
        assert_eq!(section["chains"]["chains"][1]["state"], closed, "{section}");
    }
    for chain in ["base", "ethereum"] {
        assert_eq!(phase(&server, chain).await, "cold");
    }
}

#[tokio::test]
async fn an_open_chain_is_shown_with_its_state_until_it_is_closed_again() {
    let server = start(BASE);
    let call = server
        .client()
        .post(server.url("/rpc/base"))
        .body(call("1"));
    assert_eq!(call.send().await.unwrap().status(), 200);
    let state = async || -> Value {
        let list: Value = server.get("/api/chains").await.json().await.unwrap();
        list["chains"][0].clone()
    };
    let open = state().await;
    // Its time may be over already on a slow machine.
    if open["state"] != "closed" {
        assert_eq!(open["state"], "open", "{open}");
        assert!(open["status"]["providers"].is_array(), "{open}");
    }
    // Looking at it does not keep it open.
    wait_for_async(DEADLINE, || async {
        let state = state().await;
        (state["state"] == "closed").then_some(()).ok_or(state)
    })
    .await;
}

#[tokio::test]
async fn only_known_providers_of_known_chains_can_be_drained() {
    let server = start("");
    for action in ["drain", "resume"] {
        for (path, member, known) in [
            ("none/providers/node", "chains", json!(["ethereum"])),
            ("ethereum/providers/none", "providers", json!(["node"])),
        ] {
            let path = format!("/api/chains/{path}/{action}");
            let refused = server
                .client()
                .post(server.url(&path))
                .send()
                .await
                .unwrap();
            let problem = problem(refused, 404, "not-found").await;
            assert_eq!(problem[member], known, "{path}");
        }
        let get = server
            .get(&format!("/api/chains/ethereum/providers/node/{action}"))
            .await;
        assert_eq!(get.status(), 405);
    }
    assert_eq!(phase(&server, "ethereum").await, "cold");
    for path in ["/api/chains/none", "/api/chains/none/providers"] {
        problem(server.get(path).await, 404, "not-found").await;
    }
    answer(&server, call("1")).await;
}
