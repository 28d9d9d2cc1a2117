//! Chains in the settings: own ones, wrong ones, and secrets, which are never shown.

use std::fs;

use headroom_test_support::child;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{BINARY, ETHEREUM, call, post};

/// A part of each secret.
const SECRET: &str = "hunter2";

#[tokio::test]
async fn the_secrets_of_providers_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    fs::write(
        &url_file,
        "http://user:hunter2-file@127.0.0.1:1/hunter2-file\n",
    )
    .unwrap();
    let settings = format!(
        "log.filter = 'trace'\n\
         chains.ethereum.providers.path.url = 'http://127.0.0.1:1/v2/hunter2-path?key=hunter2-query'\n\
         chains.ethereum.providers.path.ws_url = 'ws://127.0.0.1:1/hunter2-socket'\n\
         chains.ethereum.providers.path.headers.authorization = 'hunter2-header'\n\
         chains.base.providers.file.url_file = '{}'",
        url_file.display()
    );
    let variable = (
        "HEADROOM__CHAINS__BASE__PROVIDERS__MY_NODE__URL",
        "http://127.0.0.1:1/hunter2-variable",
    );
    let options = Options::new(BINARY).settings(&settings);
    let mut server = Server::start(options.variable(variable.0, variable.1));
    let mut shown = Vec::new();
    for chain in ["ethereum", "base"] {
        shown.push(post(&server, &format!("/rpc/{chain}"), call("1")).await.1);
        for path in ["", "/providers"] {
            let path = format!("/api/chains/{chain}{path}");
            shown.push(server.get(&path).await.text().await.unwrap());
        }
    }
    for path in [
        "/api/chains",
        "/api/status",
        "/api/performance/metrics",
        "/api/performance/lazy-loader/status",
        "/api/actors",
        "/rpc/none",
    ] {
        shown.push(server.get(path).await.text().await.unwrap());
    }
    shown.push(server.metrics().await);
    let mut check = child::command(BINARY);
    check.args(["check-config", "--config", "base.toml", "--profile", "test"]);
    check
        .env(variable.0, variable.1)
        .current_dir(server.folder());
    let output = child::output(&mut check, DEADLINE).unwrap();
    assert!(output.status.success(), "{output:?}");
    let config = String::from_utf8(output.stdout).unwrap();
    assert!(
        config.contains("[chains.base.providers.my-node]"),
        "{config}"
    );
    shown.push(config);
    shown.push(String::from_utf8(output.stderr).unwrap());
    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    shown.push(server.log());
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn an_own_chain_is_served_beside_known_ones() {
    let own = "[chains.dev]\nid = 31337\naliases = ['local']\nblock_time = '1s'\nfinality_depth = 0\n\
               providers.anvil.url = 'http://127.0.0.1:1'";
    let server = Server::start(Options::new(BINARY).settings(ETHEREUM).settings(own));
    for name in ["dev", "local", "31337"] {
        let (status, text) = post(&server, &format!("/rpc/{name}"), call("1")).await;
        assert_eq!(status, 200, "{text}");
    }
    let chain: serde_json::Value = server.get("/api/chains/local").await.json().await.unwrap();
    assert_eq!(chain["name"], "dev");
    assert_eq!(chain["block_time_seconds"], json!(1.0));
}

#[test]
fn wrong_chains_keep_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("base.toml");
    for (settings, said) in [
        (
            "chains.etherum.providers.a.url = 'http://127.0.0.1/hunter2'",
            "did you mean chains.ethereum?",
        ),
        (
            "chains.ethereum.providers.a.url = 'hunter2'",
            "begin it with http:// or https://",
        ),
        (
            "chains.ethereum.providers.a.timeout = '1s'",
            "chains.ethereum.providers.a.url is not set",
        ),
    ] {
        fs::write(&file, settings).unwrap();
        let mut serve = child::command(BINARY);
        serve.args(["serve", "--config"]).arg(&file);
        serve.current_dir(folder.path());
        let output = child::output(&mut serve, DEADLINE).unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}
