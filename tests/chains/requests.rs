//! Requests as the specification of JSON-RPC 2.0 has them.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::{answer, call, phase, post, problem, start, status};

#[tokio::test]
async fn ids_come_back_byte_for_byte() {
    let server = start("");
    for id in [
        "1",
        "-7",
        "0.10e+2",
        "123456789012345678901234567890123456789012345678901234567890",
        "\"a\\u0041\\/ \\\" \u{e4}\"",
        "\"\"",
        "null",
    ] {
        let (status, text) = post(&server, "/rpc/ethereum", call(id)).await;
        assert_eq!(status, 200);
        let start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"");
        assert!(text.starts_with(&start), "{text}");
        serde_json::from_str::<Value>(&text).unwrap();
    }
    for id in ["[1]", "{\"a\":1}", "true"] {
        let error = answer(&server, call(id)).await;
        assert_eq!(error["id"], Value::Null, "{id}");
        assert_eq!(error["error"]["code"], -32600, "{id}");
    }
}

/// The examples of the specification that need no method.
#[tokio::test]
async fn the_examples_of_the_specification_are_answered_as_it_says() {
    let server = start("");
    let code_and_id = |error: &Value| (error["error"]["code"].clone(), error["id"].clone());
    for (text, code) in [
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            -32700,
        ),
        (
            r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
            -32600,
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]"#,
            -32700,
        ),
        ("[]", -32600),
    ] {
        let error = answer(&server, text).await;
        assert_eq!(code_and_id(&error), (json!(code), Value::Null), "{text}");
        assert!(error["error"]["message"].is_string());
    }
    let errors = answer(&server, "[1,2,3]").await;
    let expected = (json!(-32600), Value::Null);
    let errors = errors.as_array().unwrap();
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().all(|error| code_and_id(error) == expected));
    let notifications = r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#;
    for body in [
        notifications,
        r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#,
    ] {
        let nothing = post(&server, "/rpc/ethereum", body).await;
        assert_eq!(nothing, (204, String::new()));
    }
}

#[tokio::test]
async fn each_member_of_a_batch_has_its_own_answer_in_order() {
    let server = start("");
    let batch = r#"[
        {"jsonrpc":"2.0","method":"eth_chainId","id":1},
        {"jsonrpc":"2.0","method":"eth_chainId"},
        {"foo":"boo"},
        {"jsonrpc":"2.0","method":"eth_chainId","id":1},
        {"jsonrpc":"2.0","method":"rpc.discover","id":"x"},
        {"jsonrpc":"2.0","method":"eth_call","params":7,"id":"y"},
        {"jsonrpc":"2.0","method":"eth_call","params":{},"id":2,"id":3},
        {"jsonrpc":"2.0","method":"eth_call","params":[],"params":[],"id":4}
    ]"#;
    let answers = answer(&server, batch).await;
    let answers: Vec<_> = answers.as_array().unwrap().iter().collect();
    let ids: Vec<_> = answers.iter().map(|it| it["id"].clone()).collect();
    let null = Value::Null;
    assert_eq!(
        ids,
        [
            json!(1),
            null.clone(),
            json!(1),
            json!("x"),
            json!("y"),
            null,
            json!(4)
        ]
    );
    let codes: Vec<_> = answers[1..].iter().map(|it| &it["error"]["code"]).collect();
    let [none, _, ..] = &codes[1..] else { panic!() };
    assert_ne!(**none, -32600);
    assert_eq!(codes[0], -32600);
    assert_eq!(codes[2..], [-32601, -32602, -32600, -32600]);
}

#[tokio::test]
async fn the_media_types_of_other_nodes_are_taken() {
    let server = start("");
    let send = |media_type: Option<&str>| {
        let request = server
            .client()
            .post(server.url("/rpc/ethereum"))
            .body(call("1"));
        match media_type {
            Some(media_type) => request.header(CONTENT_TYPE, media_type),
            None => request,
        }
        .send()
    };
    for media_type in [
        None,
        Some("application/json"),
        Some("Application/JSON; charset=utf-8"),
        Some("application/json-rpc"),
        Some("text/plain"),
        Some("text/plain;charset=UTF-8"),
    ] {
        let answer = send(media_type).await.unwrap();
        assert_eq!(answer.status(), 200, "{media_type:?}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    }
    for media_type in [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/html",
        "\u{e4}",
    ] {
        let answer = send(Some(media_type)).await.unwrap();
        problem(answer, 415, "unsupported-media-type").await;
    }
}

#[tokio::test]
async fn other_methods_and_unknown_chains_are_refused() {
    let server = start("");
    let get = server.get("/rpc/ethereum").await;
    problem(get, 400, "malformed-request").await;
    let options = server
        .client()
        .request(Method::OPTIONS, server.url("/rpc/ethereum"));
    assert_eq!(options.send().await.unwrap().status(), 405);
    for name in ["ethereum", "eth", "mainnet", "1"] {
        assert_eq!(
            status(&server, &format!("/rpc/{name}")).await,
            200,
            "{name}"
        );
    }
    // Known chains without a provider, others, and other ways to write a number.
    for name in [
        "base", "8453", "solana", "Ethereum", "01", "+1", "0x1", "1%2F",
    ] {
        let request = server.client().post(server.url(&format!("/rpc/{name}")));
        let answer = request.body(call("1")).send().await.unwrap();
        let problem = problem(answer, 404, "not-found").await;
        assert_eq!(problem["chains"], json!(["ethereum"]), "{name}");
    }
}

#[tokio::test]
async fn the_first_call_opens_the_chain() {
    let server = start("");
    assert_eq!(phase(&server, "ethereum").await, "cold");
    for no_call in ["[]", "1", "nothing", r#"{"jsonrpc":"2.0","id":1}"#] {
        answer(&server, no_call).await;
    }
    assert_eq!(phase(&server, "ethereum").await, "cold");
    let error = answer(&server, call("1")).await;
    assert!(error["error"]["data"]["type"].is_string(), "{error}");
    assert_eq!(phase(&server, "ethereum").await, "ready");
}
