//! Searches for logs whose answers are long.

use headroom_test_support::rpc_proxy::RpcFault;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::{Value, json};

use super::nodes::Gateway;

/// Makes so many logs, one in a block, whose JSON has 1 MiB each.
async fn make_large_logs(gateway: &Gateway, count: u64) {
    gateway.node.log_zeros(count as usize, 500 * 1024).await;
    wait_for_async(DEADLINE, || async {
        let newest = gateway.answer("eth_blockNumber", &json!([])).await;
        let expected = json!(format!("{:#x}", count + 1));
        (newest["result"] == expected).then_some(()).ok_or(newest)
    })
    .await;
}

fn search() -> Value {
    let filter = json!({ "fromBlock": "0x0", "toBlock": "latest" });
    json!({ "jsonrpc": "2.0", "id": "logs", "method": "eth_getLogs", "params": [filter] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_logs_are_sent_while_others_are_searched() {
    // Less memory than the logs have: 33 MiB, of which filters have most.
    let settings = "server.answers_in_flight_max = '1MiB'\nrpc.cache_max = '64KiB'\nrpc.provider.logs_range_max = 1";
    let Some(gateway) = Gateway::start(1, settings).await else {
        return;
    };
    make_large_logs(&gateway, 40).await;
    let params = search()["params"].take();
    let direct = gateway.node.call("eth_getLogs", params).await;
    assert_eq!(direct.as_array().map(Vec::len), Some(40));
    let answer = gateway.server.post_json("/rpc/dev", &search()).await;
    assert_eq!((answer.status, &answer.json["id"]), (200, &json!("logs")));
    assert!(answer.json["error"].is_null(), "{}", answer.json["error"]);
    assert!(answer.json["result"] == direct, "the logs differ");

    // What fails after its beginning is cut.
    let client = gateway.server.client();
    let answer = client.post(gateway.url()).json(&search()).send().await;
    let mut answer = answer.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.content_length()),
        (200, None)
    );
    answer.chunk().await.unwrap().unwrap();
    gateway.proxies[0].set_for(&["eth_getLogs"], RpcFault::Reset);
    let mut bytes = 0;
    let end = loop {
        match answer.chunk().await {
            Ok(Some(piece)) => bytes += piece.len(),
            end => break end,
        }
    };
    assert!(end.is_err(), "{end:?} after {bytes} bytes");
    // The next call is answered as ever.
    gateway.proxies[0].clear();
    let answer = gateway.server.post_json("/rpc/dev", &search()).await;
    assert!(answer.json["result"] == direct, "the logs differ");
}
