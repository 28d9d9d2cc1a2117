//! Malformed requests, in their content or on the wire. Each is refused with the reason, none disturbs another model,
//! and the server's memory returns to where it was.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headroom_test_support::process_tree::private_dirty;
use headroom_test_support::protocol::{Answer, host_path};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::json;

use crate::setup::{BackgroundClient, ServerWithModels, floats};

/// Settings of a model with one input of two FP32 numbers.
const SETTINGS: &str = "[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [2]\n";

/// Largest growth of the server's memory, in bytes, after 1.5 GB of malformed requests: the allocator keeps some memory
/// for the threads that worked.
const MEMORY_BOUND: u64 = 16 << 20;

async fn start(settings: &str) -> ServerWithModels {
    let server = ServerWithModels::start(settings);
    server.add_model("affine", torchscript::affine);
    server.set_model_settings("affine", SETTINGS);
    server.add_model("echo", torchscript::echo);
    assert_served(&server).await;
    server
}

async fn assert_served(server: &ServerWithModels) {
    let answer = server.infer("affine", &floats(&[1.0, 2.0])).await;
    assert_eq!(answer.output(), [3.5, 6.5]);
    let answer = server.infer("echo", &floats(&[1.0])).await;
    assert_eq!(answer.output(), [1.0]);
}

/// The body of a request to the model with settings, with this text for shape, datatype and data.
fn input(shape: &str, datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
    )
}

/// Bodies that are refused with 400, each with a word of the reason.
fn bad_bodies() -> Vec<(String, &'static str)> {
    let good = input("[2]", "FP32", "[1,2]");
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let one = r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}"#;
    let mut bodies = vec![
        (String::new(), "JSON"),
        ("null".into(), "form"),
        ("[]".into(), "form"),
        ("\"x\"".into(), "form"),
        ("{}".into(), "inputs"),
        ("{\"inputs\":{}}".into(), "form"),
        ("{\"inputs\":[]}".into(), "x"),
        ("{\"inputs\":[null]}".into(), "form"),
        (format!("{good}{good}"), "JSON"),
        (format!("{good}\0"), "JSON"),
        (deep(100_000), ""),
        (format!("{{\"inputs\":{}}}", deep(100_000)), ""),
        (format!("{{\"other\":{}}}", deep(100_000)), ""),
        (format!("{{\"inputs\":[],\"inputs\":[{one}]}}"), "duplicate"),
        (format!("{{\"inputs\":[{one},{one}]}}"), "x"),
        (
            r#"{"inputs":[{"name":"x","name":"y","shape":[2],"datatype":"FP32","data":[1,2]}]}"#
                .into(),
            "duplicate",
        ),
        (
            format!(
                "{{\"inputs\":[{}{one}]}}",
                format!("{one},").repeat(100_000)
            ),
            "",
        ),
        (
            format!(
                "{{\"inputs\":[{one}],\"outputs\":[{}{{\"name\":\"y\"}}]}}",
                "{\"name\":\"z\"},".repeat(1000)
            ),
            "z",
        ),
        (format!("{{\"inputs\":[{one}],\"parameters\":7}}"), "form"),
        (
            format!("{{\"inputs\":[{one}],\"parameters\":{{\"sequence_end\":true}}}}"),
            "sequence_id",
        ),
        (
            format!("{{\"inputs\":[{one}],\"parameters\":{{\"reset_states\":true}}}}"),
            "reset_states",
        ),
        (good.replace("\"x\"", "\"y\""), "no input"),
        (
            good.replace("\"x\"", &format!("{:?}", "y".repeat(1_000_000))),
            "",
        ),
    ];
    for cut in (1..good.len()).step_by(7) {
        bodies.push((good[..cut].to_owned(), "JSON"));
    }
    let inputs = [
        ("[3]", "FP32", "[1,2,3]", "shape"),
        ("[1,2]", "FP32", "[1,2]", "shape"),
        ("[]", "FP32", "[1]", "shape"),
        ("[2]", "FP32", "[1]", "element"),
        ("[2]", "FP32", "[1,2,3]", "element"),
        ("[2]", "FP32", "[[1,2]]", ""),
        ("[2]", "FP32", "[]", "element"),
        ("[2]", "FP32", "{}", ""),
        ("[2]", "FP32", "\"1,2\"", ""),
        ("[2]", "FP32", "[\"1\",\"2\"]", ""),
        ("[2]", "FP32", "[null,null]", ""),
        ("[2]", "FP32", "[nan,1]", "JSON"),
        ("[2]", "FP32", "[+Infinity,1]", "JSON"),
        ("[2]", "INT64", "[NaN,1]", "NaN"),
        ("[2]", "FP32", "[1e999,1]", ""),
        ("[2]", "FP32", "[1e39,1]", "range"),
        ("[2]", "FP32", "[\"nan\",1]", ""),
        ("[2]", "INT64", "[1,2]", "FP32"),
        ("[2]", "FP64", "[1,2]", "FP32"),
        ("[2]", "BYTES", "[1,2]", "BYTES"),
        ("[2]", "FLOAT", "[1,2]", "FLOAT"),
        ("[2]", "INT8", "[1,300]", "300"),
        ("[-2]", "FP32", "[1,2]", "negative"),
        ("[-1,-2]", "FP32", "[1,2]", "negative"),
        ("[9223372036854775807,2]", "FP32", "[1,2]", ""),
        ("[9223372036854775807]", "FP32", "[1,2]", ""),
        ("[9223372036854775808]", "FP32", "[1,2]", ""),
        ("[4294967296,4294967296]", "FP32", "[1,2]", ""),
        ("[1e30]", "FP32", "[1,2]", ""),
        ("[2.0]", "FP32", "[1,2]", ""),
        ("\"2\"", "FP32", "[1,2]", ""),
        ("null", "FP32", "[1,2]", ""),
    ];
    for (shape, datatype, data, word) in inputs {
        bodies.push((input(shape, datatype, data), word));
    }
    bodies
}

#[tokio::test]
async fn malformed_bodies_are_refused_with_the_reason() {
    let server = start("").await;
    let background = BackgroundClient::start(&server).await;
    for (body, word) in bad_bodies() {
        let answer = server
            .post_body("/v2/models/affine/infer", body.clone())
            .await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        assert!(answer.error(400).contains(word), "{shown}: {answer:?}");
        let length = answer.json.to_string().len();
        assert!(length < 2000, "{shown}: {length} bytes of answer");
    }
    let junk: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let answer = server.post_body("/v2/models/affine/infer", junk).await;
    answer.assert_refused(400, "JSON");
    for path in ["/v2/repository/index", "/v2/models/affine/infer"] {
        server
            .post_body(path, "\u{feff}{")
            .await
            .assert_refused(400, "JSON");
    }
    assert_served(&server).await;
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn shapes_beyond_the_limits_of_tensors_are_refused() {
    let server = start("").await;
    let background = BackgroundClient::start(&server).await;
    let ones = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    for (shape, data) in [
        (ones(65), "[1]"),
        (ones(1000), "[1]"),
        (ones(100_000), "[1]"),
        ("[0,9223372036854775807]".to_owned(), "[]"),
        (
            "[9223372036854775807,0,9223372036854775807]".to_owned(),
            "[]",
        ),
        ("[0]".to_owned(), "[]"),
        ("[]".to_owned(), "[1]"),
    ] {
        let answer = server
            .post_body("/v2/models/echo/infer", input(&shape, "FP32", data))
            .await;
        // Shapes that libtorch supports are answered.
        match answer.status {
            200 => assert_eq!(answer.output().len(), data.len() - 2),
            _ => answer.assert_refused(400, ""),
        }
    }
    server.wait_for_restarts(&host_path("echo"), 0).await;
    assert_served(&server).await;
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn numbers_that_json_cannot_express_are_answered_by_their_names() {
    let server = start("").await;
    // The model multiplies by 3, beyond the range of FP32.
    let answer = server.infer("affine", &floats(&[3e38, 1.0])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = &answer.json["outputs"][0]["data"];
    assert_eq!(*data, json!(["Infinity", 3.5]));
}

#[tokio::test]
async fn the_content_type_does_not_change_how_a_body_is_read() {
    let server = start("").await;
    let good = floats(&[1.0, 2.0]).to_string();
    for (kind, body, status) in [
        // curl's default.
        ("application/x-www-form-urlencoded", good.as_str(), 200),
        ("application/x-www-form-urlencoded", "inputs=1&x=2", 400),
        (
            "multipart/form-data; boundary=x",
            "--x\r\n\r\n\r\n--x--",
            400,
        ),
        ("application/octet-stream", "\0\0\0\0", 400),
        ("\u{e4}", "", 400),
    ] {
        let request = server.client().post(server.url("/v2/models/affine/infer"));
        let answer = Answer::to(request.header("content-type", kind).body(body.to_owned())).await;
        assert_eq!(answer.status, status, "{kind}: {answer:?}");
    }
    for (coding, status, word) in [("gzip", 400, "not valid gzip"), ("br", 415, "not accepted")] {
        let request = server.client().post(server.url("/v2/models/affine/infer"));
        let request = request
            .header("content-encoding", coding)
            .body(good.clone());
        Answer::to(request).await.assert_refused(status, word);
    }
}

#[tokio::test]
async fn names_never_leave_the_models_folder() {
    let server = start("").await;
    // A model outside of the models folder, which a name with ".." would reach.
    let outside = server
        .models
        .path()
        .parent()
        .unwrap()
        .join("outside-of-models");
    let version = outside.join("1");
    std::fs::create_dir_all(&version).unwrap();
    torchscript::affine(&version.join("model.pt")).unwrap();
    let address = server.address();
    let long = "x".repeat(5000);
    let names = [
        "absent",
        "../outside-of-models",
        "..%2foutside-of-models",
        "%2e%2e%2foutside-of-models",
        "%2e%2e/outside-of-models",
        "..%5coutside-of-models",
        "%252e%252e%252foutside-of-models",
        "affine%2f..%2f..%2foutside-of-models",
        "affine%00",
        "%00",
        "%",
        "%zz",
        "%ff%fe",
        "%c3%a4%f0%9f%a6%80",
        ".",
        "..",
        "%2e",
        ".hidden",
        "affine%20",
        "affine:1",
        "~root",
        "",
        &long,
    ];
    for name in names {
        for tail in ["/infer", "/ready", ""] {
            let (method, body) = if tail == "/infer" {
                ("POST", "{\"inputs\":[]}")
            } else {
                ("GET", "")
            };
            let request = format!(
                "{method} /v2/models/{name}{tail} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = exchange(address, request.into_bytes(), AfterSend::Wait).await;
            let status = status(&answer);
            assert!((400..500).contains(&status), "{name}{tail}: {answer}");
        }
    }
    for path in [
        "/v2/models/affine/versions/0/infer",
        "/v2/models/affine/versions/-1/infer",
        "/v2/models/affine/versions/99999999999999999999/infer",
        "/v2/models/affine/versions/..%2f1/infer",
        "/v2/repository/models/..%2foutside-of-models/load",
        "/v2/repository/models/..%2foutside-of-models/unload",
    ] {
        server
            .post_body(path, floats(&[1.0]).to_string())
            .await
            .assert_refused(404, "");
    }
    // A head beyond any limit.
    let endless = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let answer = exchange(address, endless.into_bytes(), AfterSend::Wait).await;
    assert!((400..500).contains(&status(&answer)), "{answer}");
    std::fs::remove_dir_all(outside).unwrap();
    assert_served(&server).await;
}

#[tokio::test]
async fn bodies_that_end_early_are_refused() {
    let server = start("").await;
    let address = server.address();
    let head = "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let part = "{\"inputs\":[";
    for body in [
        format!("content-length: 1000\r\n\r\n{part}"),
        format!(
            "transfer-encoding: chunked\r\n\r\n{:x}\r\n{part}\r\n",
            part.len()
        ),
        format!(
            "transfer-encoding: chunked\r\n\r\n{:x}\r\n{part}",
            part.len() + 100
        ),
        format!("transfer-encoding: chunked\r\n\r\n{part}\r\n"),
        "transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n".to_owned(),
        "transfer-encoding: chunked\r\n\r\n-1\r\n".to_owned(),
    ] {
        let answer = exchange(
            address,
            format!("{head}{body}").into_bytes(),
            AfterSend::Close,
        )
        .await;
        // The server may close the connection without an answer, since the client has closed its side.
        assert!(
            answer.is_empty() || (400..500).contains(&status(&answer)),
            "{body:?}: {answer}"
        );
    }
    assert_served(&server).await;
}

#[tokio::test]
async fn slow_senders_are_cut_off_and_disturb_no_other_client() {
    let limits = "server.client_request_timeout = '500ms'\nserver.body_idle_timeout = '500ms'\n\
                  server.body_timeout = '2s'";
    let server = start(limits).await;
    let background = BackgroundClient::start(&server).await;
    let address = server.address();
    let begun = Instant::now();
    let body = "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{";
    let slow: Vec<_> = (0..200)
        .map(|index| {
            let head = if index % 2 == 0 { "POST /v2/mod" } else { body };
            exchange(address, head.as_bytes().to_vec(), AfterSend::Wait)
        })
        .collect();
    for answer in slow {
        let answer = answer.await;
        assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );

    // A body that arrives byte by byte is not idle, and still has to end in time.
    let answer = send_slowly(address, body.as_bytes().to_vec()).await;
    assert_eq!(status(&answer), 408, "{answer}");
    assert_served(&server).await;
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn memory_is_released_after_large_malformed_requests() {
    // The HTTP client opens spare connections. The server must not close one for silence while the client starts a
    // large body on it.
    let server = start("server.client_request_timeout = '10m'").await;
    let background = BackgroundClient::start(&server).await;
    let pid = server.pid();
    let nested = |bytes: usize| {
        // Small nested arrays, which need the most memory per byte of JSON.
        let unit = "[[[[1]]]],";
        let mut body = String::with_capacity(bytes + 100);
        body.push_str(
            "{\"inputs\":[{\"name\":\"x\",\"shape\":[2],\"datatype\":\"FP32\",\"data\":[",
        );
        while body.len() < bytes {
            body.push_str(unit);
        }
        body.push_str("1]}]}");
        body
    };
    let too_large = nested(100_000_000);
    let just_fits = nested(60_000_000);
    let flat = input(
        "[20000000]",
        "FP32",
        &format!("[{}1]", "1,".repeat(20_000_000 - 1)),
    );
    let before = private_dirty(pid);
    for round in 0..3 {
        let answer = server
            .post_body("/v2/models/affine/infer", too_large.clone())
            .await;
        answer.assert_refused(413, "64");
        let answer = exchange(server.address(), chunked(&too_large), AfterSend::Wait).await;
        assert_eq!(status(&answer), 413, "{answer}");
        assert!(answer.contains("{\"error\":"), "{answer}");
        for body in [&just_fits, &flat] {
            let answer = server
                .post_body("/v2/models/affine/infer", body.clone())
                .await;
            answer.assert_refused(400, "");
        }
        println!(
            "after round {round}: {} MiB, before {} MiB",
            private_dirty(pid) >> 20,
            before >> 20
        );
    }
    // Many small allocations, from all threads at once.
    let one = r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]},"#;
    let many = format!(
        "{{\"inputs\":[{}]}}",
        one.repeat(20_000).trim_end_matches(',')
    );
    let many = bytes::Bytes::from(many);
    for _ in 0..4 {
        let answers: Vec<_> = (0..32)
            .map(|_| server.begin_infer("affine", many.clone()))
            .collect();
        for answer in answers {
            answer.await.unwrap().assert_refused(400, "");
        }
        println!("after many inputs: {} MiB", private_dirty(pid) >> 20);
    }
    wait_for_async(DEADLINE, || async {
        let now = private_dirty(pid);
        (now < before + MEMORY_BOUND)
            .then_some(())
            .ok_or((now >> 20, before >> 20))
    })
    .await;
    assert_served(&server).await;
    background.assert_undisturbed().await;
    // While the background client ran, one of its requests could be held.
    wait_for_async(DEADLINE, || async {
        let held = server.metric("headroom_http_bodies_bytes", &[]).await;
        (held == 0.0).then_some(()).ok_or(held)
    })
    .await;
}

/// A request with a chunked body, whose length is not announced.
fn chunked(body: &str) -> Vec<u8> {
    let head = "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    for part in body.as_bytes().chunks(1 << 20) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// What a client does after it has sent its bytes.
#[derive(Clone, Copy)]
enum AfterSend {
    /// It waits for the answer.
    Wait,
    /// It closes its side of the connection, and waits.
    Close,
}

/// Sends `bytes` and reads everything until the server closes the connection.
fn exchange(address: SocketAddr, bytes: Vec<u8>, after: AfterSend) -> impl Future<Output = String> {
    let exchange = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address);
        // The server may refuse the request before it has read everything.
        stream.write_all(&bytes).ok();
        if let AfterSend::Close = after {
            stream.shutdown(Shutdown::Write).ok();
        }
        read_all(&mut stream)
    });
    async move { exchange.await.unwrap() }
}

/// Sends `bytes`, then one space at a time until the server answers.
async fn send_slowly(address: SocketAddr, bytes: Vec<u8>) -> String {
    let mut stream = connect(address);
    stream.write_all(&bytes).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    let read = wait_for_async(DEADLINE, || {
        let sent = stream.write_all(b" ");
        let read = stream.read(&mut answer);
        async move {
            match (sent, read) {
                (_, Ok(read)) => Ok(read),
                (Err(error), _) => panic!("cut off without an answer: {error}"),
                (Ok(()), Err(error)) => Err(error),
            }
        }
    })
    .await;
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server neither answers nor closes: {error}"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}
