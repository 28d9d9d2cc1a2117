//! The chains on the page at `/`.

use headroom_test_support::server::{Options, Server};
use serde_json::{Value, json};

use crate::BINARY;
use crate::page::{browser, open, open_with};

const SETTINGS: &str = "chains.ethereum.providers.node.url = 'http://127.0.0.1:1/hunter2'\nchains.base.providers.node.url = 'http://127.0.0.1:1'";

/// The texts of the cells of a table, by its label.
fn rows(label: &str) -> String {
    format!(
        "[...document.querySelectorAll('table[aria-label={label:?}] tbody tr')]\
         .map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
}

#[tokio::test]
async fn chains_are_shown_closed_until_they_are_used() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY).settings(SETTINGS));
    open(&mut browser, &server);
    let figures = "document.querySelector('#chains .figures').textContent";
    assert_eq!(browser.run(figures), "0 of 2 open");
    let chains = browser.run(&rows("Chains"));
    let expected = json!([
        ["base", "8453", "○ closed", "–", "–", "–", "–"],
        ["ethereum", "1", "○ closed", "–", "–", "–", "–"],
    ]);
    assert_eq!(chains, expected);
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" });
    let answer = server.post("/rpc/ethereum", &call).await;
    assert_eq!(answer.status(), 200);
    browser.wait_until(&format!("{}[1][2] === '● open'", rows("Chains")));
    assert_eq!(browser.run(figures), "1 of 2 open");
    let html = browser.run("document.documentElement.outerHTML");
    assert!(!html.as_str().unwrap().contains("hunter2"));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn each_provider_is_shown_with_its_score_and_why_it_is_not_used() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY).settings(SETTINGS));
    let mut status: Value = server.get("/api/status").await.json().await.unwrap();
    let place = |name: &str, is_used: bool, reason: Value| {
        json!({
            "name": name, "url": "https://<b>node", "is_used": is_used, "reason": reason, "score": 0.125,
            "lag_blocks": 2, "head": 1998, "latency_seconds": 0.021, "latency_p95_seconds": null,
            "error_rate": 0.25, "throttle_rate": 0.0, "in_flight": 3,
        })
    };
    status["chains"][1] = json!({
        "name": "ethereum", "id": 1, "explorer": null, "state": "open",
        "status": {
            "head": 2000, "head_hash": "0x1", "finalized": 1900, "head_age_seconds": 4.2,
            "providers": [
                place("a", true, Value::Null),
                place("b", false, json!("it is synchronising")),
                place("c", false, json!("it is drained")),
            ],
        },
    });
    open_with(&mut browser, &server, &status);
    let chain = browser.run(&format!("{}[1]", rows("Chains")));
    let expected = json!(["ethereum", "1", "● open", "2,000", "1,900", "4 s", "1"]);
    assert_eq!(chain, expected);
    let providers = browser.run(&rows("Providers of open chains"));
    let providers = providers.as_array().unwrap();
    let expected = json!([
        "ethereum",
        "ahttps://<b>node",
        "● used",
        "0.13",
        "2",
        "21.0 ms",
        "–",
        "25.0 %",
        "0.0 %",
        "3",
        "Drain"
    ]);
    assert_eq!(providers[0], expected);
    assert_eq!(providers[1][1], "bhttps://<b>node, it is synchronising");
    assert_eq!(providers[1][2], "■ not used");
    assert_eq!(providers[2][2], "○ drained");
    assert_eq!(providers[2][10], "Resume");
    // A provider that the server does not know: the page says what came of it.
    let button =
        "document.querySelector('table[aria-label=\"Providers of open chains\"] tbody button')";
    browser.run(&format!("{button}.click()"));
    browser.wait_until(
        "document.getElementById('said').textContent.startsWith('It failed: the chain has no such provider')",
    );
    browser.take_errors();
}
