//! What bounds requests, and bodies that are made to do harm.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::{answer, call, post, start};

#[tokio::test]
async fn a_batch_has_at_most_so_many_calls() {
    let server = start("");
    let batch = |calls: usize| format!("[{}]", vec![call("1"); calls].join(","));
    let answers = answer(&server, batch(1000)).await;
    assert_eq!(answers.as_array().unwrap().len(), 1000);
    for calls in [1001, 10_000] {
        let error = answer(&server, batch(calls)).await;
        assert_eq!(error["error"]["code"], -32600);
        assert_eq!(
            error["error"]["message"],
            "the batch has more than 1000 calls"
        );
        assert_eq!(error["id"], json!(null));
    }
    // Members that are nothing are counted too.
    let many = format!("[{}]", vec!["1"; 1_000_000].join(","));
    assert_eq!(answer(&server, many).await["error"]["code"], -32600);
}

#[tokio::test]
async fn a_body_has_at_most_so_many_bytes() {
    // The smaller one of two bounds counts.
    for bound in ["rpc.request_max", "server.request_body_max"] {
        assert_bound(&start(&format!("{bound} = '10KiB'"))).await;
    }
}

/// Asserts that the server takes bodies of 10 KiB and no larger ones.
async fn assert_bound(server: &Server) {
    let text = |length: usize| {
        let call = call("1");
        format!("{call}{}", " ".repeat(length - call.len()))
    };
    answer(server, text(10 * 1024)).await;
    let (status, text_413) = post(server, "/rpc/ethereum", text(10 * 1024 + 1)).await;
    assert_eq!(status, 413, "{text_413}");
    assert!(text_413.contains("\"limit_bytes\":10240"), "{text_413}");
    // Without an announced length.
    let mut chunked = TcpStream::connect(server.address()).unwrap();
    chunked.set_read_timeout(Some(DEADLINE)).unwrap();
    let head =
        "POST /rpc/ethereum HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    let chunks = chunk.repeat(11);
    chunked
        .write_all(format!("{head}{chunks}").as_bytes())
        .unwrap();
    let mut line = [0; 12];
    chunked.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 413");
}

#[tokio::test]
async fn deep_and_wide_bodies_cost_little() {
    let server = start("");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let of_params = |params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"eth_call","params":{params}}}"#)
    };
    let megabytes = 4 << 20;
    let hostile = [
        nested(megabytes / 2),
        "[".repeat(megabytes),
        of_params(&nested(megabytes / 2)),
        of_params(&"{\"a\":".repeat(100_000)),
        format!("{{{}\"x\":1}}", "\"id\":1,".repeat(500_000)),
        format!("{{\"{}\":1}}", "\\u0041".repeat(500_000)),
        format!("[{}]", vec!["{}"; 1000].join(",")),
        call(&"9".repeat(megabytes)),
        call(&format!("\"{}\"", "\\\"".repeat(megabytes / 2))),
        of_params(&format!("[{}]", vec!["1e999999"; 400_000].join(","))),
        "\"".repeat(megabytes),
        "\u{0}".repeat(megabytes),
    ];
    for body in hostile {
        let shown: String = body.chars().take(60).collect();
        let (status, text) = post(&server, "/rpc/ethereum", body).await;
        assert_eq!(status, 200, "{shown}: {text}");
        if let Err(error) = serde_json::from_str::<IgnoredAny>(&text) {
            panic!("{shown}: {error}");
        }
    }
    // All of it is given back.
    wait_for_async(DEADLINE, || async {
        let bodies = server.metrics().await;
        let is_empty = bodies
            .lines()
            .any(|line| line == "headroom_http_bodies_bytes 0");
        is_empty.then_some(()).ok_or(bodies)
    })
    .await;
}

#[tokio::test]
async fn a_client_has_at_most_so_many_calls_at_once() {
    let server = start("rpc.batch_max = 3\nrpc.client_calls_max = 3");
    // A body that is not complete takes no place.
    let mut slow = TcpStream::connect(server.address()).unwrap();
    let head = "POST /rpc/ethereum HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n[";
    slow.write_all(head.as_bytes()).unwrap();
    let batch = format!("[{}]", vec![call("1"); 3].join(","));
    for _ in 0..20 {
        let answers = answer(&server, batch.clone()).await;
        assert_eq!(answers.as_array().unwrap().len(), 3);
    }
    slow.set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    assert!(slow.read(&mut [0]).is_err());
}

#[tokio::test]
async fn calls_are_counted_by_chain_method_and_outcome() {
    let server = start("");
    let method = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
    let batch = ["eth_chainId", "eth_chainId", "eth_nonsense", "rpc.x"].map(method);
    answer(&server, format!("[{}]", batch.join(","))).await;
    answer(&server, "nothing").await;
    let metrics = server.metrics().await;
    let count = |method: &str, outcome: &str| {
        let series = format!(
            "headroom_rpc_calls_total{{chain=\"ethereum\",method=\"{method}\",outcome=\"{outcome}\"}} "
        );
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
    };
    assert_eq!(count("other", "malformed"), Some(2), "{metrics}");
    let of_provider = |method| {
        let outcomes = ["no_provider", "failed", "deadline"];
        let counts = outcomes.iter().filter_map(|outcome| count(method, outcome));
        counts.sum::<u64>()
    };
    assert_eq!(of_provider("eth_chainId"), 2, "{metrics}");
    assert_eq!(of_provider("other"), 1, "{metrics}");
    assert!(!metrics.contains("nonsense"));
    for line in [
        "headroom_rpc_batch_calls_count{chain=\"ethereum\"} 1",
        "headroom_rpc_batch_calls_sum{chain=\"ethereum\"} 4",
        "headroom_rpc_request_duration_seconds_count{chain=\"ethereum\"} 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
}
