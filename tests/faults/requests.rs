//! Requests that make no sense, or come in a way that makes none: each gets a clear refusal, none disturbs another
//! model, and the server's memory comes back to where it was.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headroom_test_support::process_tree::pss;
use headroom_test_support::torchscript;
use headroom_test_support::wait::wait_for_async;
use serde_json::{Value, json};

use crate::setup::{Answer, Bystander, DEADLINE, ServerWithModels, floats};

/// Two FP32 numbers, and nothing else.
const SETTINGS: &str = "[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [2]\n";

/// How much more memory the server may have, once it is quiet again, than before the garbage, which is 1.5 GB: what
/// the allocator keeps for the threads that were at work.
const MEMORY_BOUND: u64 = 16 << 20;

async fn setup(settings: &str) -> ServerWithModels {
    let setup = ServerWithModels::start(settings);
    setup.place("affine", torchscript::affine);
    setup.settings("affine", SETTINGS);
    setup.place("echo", torchscript::echo);
    assert_served(&setup).await;
    setup
}

async fn assert_served(setup: &ServerWithModels) {
    let answer = setup.infer("affine", &floats(&[1.0, 2.0])).await;
    assert_eq!(answer.output(), [3.5, 6.5]);
    let answer = setup.infer("echo", &floats(&[1.0])).await;
    assert_eq!(answer.output(), [1.0]);
}

/// A request to the declared model with other words for shape, datatype and data.
fn input(shape: &str, datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
    )
}

/// Bodies that are refused with 400, and a word of the reason.
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
            format!("{{\"inputs\":[{one}],\"parameters\":{{\"sequence_id\":9}}}}"),
            "sequence",
        ),
        (
            format!("{{\"inputs\":[{one}],\"parameters\":{{\"reset_states\":true}}}}"),
            "reset_states",
        ),
        (good.replace("\"x\"", "\"y\""), "missing"),
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
        ("[2]", "FP32", "[NaN,1]", "JSON"),
        ("[2]", "FP32", "[Infinity,1]", "JSON"),
        ("[2]", "FP32", "[-Infinity,1]", "JSON"),
        ("[2]", "FP32", "[1e999,1]", ""),
        ("[2]", "FP32", "[1e39,1]", "fit"),
        ("[2]", "FP32", "[\"NaN\",1]", ""),
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
async fn bodies_that_make_no_sense_are_refused_in_words() {
    let setup = setup("").await;
    let bystander = Bystander::start(&setup).await;
    for (body, word) in bad_bodies() {
        let answer = setup.post("/v2/models/affine/infer", body.clone()).await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        assert!(answer.error().contains(word), "{shown}: {answer:?}");
        assert!(
            answer.text.len() < 2000,
            "{shown}: {} bytes of answer",
            answer.text.len()
        );
    }
    let junk: Vec<u8> = (0..100_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let answer = setup.post("/v2/models/affine/infer", junk).await;
    answer.assert_refused(400, "JSON");
    for path in ["/v2/repository/index", "/v2/models/affine/infer"] {
        setup
            .post(path, "\u{feff}{")
            .await
            .assert_refused(400, "JSON");
    }
    assert_served(&setup).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn shapes_beyond_what_tensors_can_have_do_no_harm() {
    let setup = setup("").await;
    let bystander = Bystander::start(&setup).await;
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
        let answer = setup
            .post("/v2/models/echo/infer", input(&shape, "FP32", data))
            .await;
        // What libtorch can hold comes back.
        match answer.status {
            200 => assert_eq!(answer.output().len(), data.len() - 2),
            _ => answer.assert_refused(400, ""),
        }
    }
    setup
        .wait_for_restarts(&crate::setup::host_path("echo"), 0)
        .await;
    assert_served(&setup).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn numbers_that_json_has_no_words_for_go_out_as_null() {
    let setup = setup("").await;
    // The model multiplies by 3 and leaves what FP32 can hold.
    let answer = setup.infer("affine", &floats(&[3e38, 1.0])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let data = &answer.json()["outputs"][0]["data"];
    assert_eq!(*data, json!([Value::Null, 3.5]));
}

#[tokio::test]
async fn a_wrong_content_type_does_not_make_sense_of_nonsense() {
    let setup = setup("").await;
    let good = floats(&[1.0, 2.0]).to_string();
    for (kind, body, status) in [
        // As curl sends it when told nothing.
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
        let request = setup
            .server
            .client()
            .post(setup.server.url("/v2/models/affine/infer"));
        let answer = Answer::of(request.header("content-type", kind).body(body.to_owned())).await;
        assert_eq!(answer.status, status, "{kind}: {answer:?}");
    }
    let request = setup
        .server
        .client()
        .post(setup.server.url("/v2/models/affine/infer"));
    let answer = Answer::of(request.header("content-encoding", "gzip").body(good)).await;
    answer.assert_refused(415, "compressed");
}

#[tokio::test]
async fn names_never_leave_the_models_folder() {
    let setup = setup("").await;
    // A model beside the models folder, where a name with a way up would find it.
    let outside = setup
        .models
        .path()
        .parent()
        .unwrap()
        .join("outside-of-models");
    let version = outside.join("1");
    std::fs::create_dir_all(&version).unwrap();
    torchscript::affine(&version.join("model.pt")).unwrap();
    let address = setup.server.address();
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
            let answer = talk(address, request.into_bytes(), End::Open).await;
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
        setup
            .post(path, floats(&[1.0]).to_string())
            .await
            .assert_refused(404, "");
    }
    // A head that never seems to end.
    let endless = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 20));
    let answer = talk(address, endless.into_bytes(), End::Open).await;
    assert!((400..500).contains(&status(&answer)), "{answer}");
    std::fs::remove_dir_all(outside).unwrap();
    assert_served(&setup).await;
}

#[tokio::test]
async fn bodies_that_end_early_are_refused() {
    let setup = setup("").await;
    let address = setup.server.address();
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
        let answer = talk(address, format!("{head}{body}").into_bytes(), End::Closed).await;
        // Some clients learn it from the connection alone: theirs is closed on both sides.
        assert!(
            answer.is_empty() || (400..500).contains(&status(&answer)),
            "{body:?}: {answer}"
        );
    }
    assert_served(&setup).await;
}

#[tokio::test]
async fn slow_senders_are_cut_off_and_hold_up_nobody() {
    let limits = "server.client_request_timeout = '500ms'\nserver.body_idle_timeout = '500ms'\n\
                  server.body_timeout = '2s'";
    let setup = setup(limits).await;
    let bystander = Bystander::start(&setup).await;
    let address = setup.server.address();
    let begun = Instant::now();
    let body = "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{";
    let slow: Vec<_> = (0..200)
        .map(|index| {
            let head = if index % 2 == 0 { "POST /v2/mod" } else { body };
            talk(address, head.as_bytes().to_vec(), End::Open)
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

    // One byte now and then keeps a body from being idle, and not from having to end.
    let answer = drip(address, body.as_bytes().to_vec()).await;
    assert_eq!(status(&answer), 408, "{answer}");
    assert_served(&setup).await;
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn memory_comes_back_after_large_garbage() {
    // The client opens connections in reserve. A large body on one that is being closed for having
    // been silent is not what this test is about.
    let setup = setup("server.client_request_timeout = '10m'").await;
    let bystander = Bystander::start(&setup).await;
    let pid = setup.server.pid();
    let nested = |bytes: usize| {
        // Small arrays within arrays, as costly to keep as JSON gets.
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
    let before = pss(pid);
    for round in 0..3 {
        let answer = setup
            .post("/v2/models/affine/infer", too_large.clone())
            .await;
        answer.assert_refused(413, "64");
        let answer = talk(setup.server.address(), chunked(&too_large), End::Open).await;
        assert_eq!(status(&answer), 413, "{answer}");
        assert!(answer.contains("{\"error\":"), "{answer}");
        for body in [&just_fits, &flat] {
            let answer = setup.post("/v2/models/affine/infer", body.clone()).await;
            answer.assert_refused(400, "");
        }
        println!(
            "after round {round}: {} MiB, before {} MiB",
            pss(pid) >> 20,
            before >> 20
        );
    }
    // Many small pieces of memory, from all threads at once.
    let one = r#"{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]},"#;
    let many = format!(
        "{{\"inputs\":[{}]}}",
        one.repeat(20_000).trim_end_matches(',')
    );
    let many = bytes::Bytes::from(many);
    for _ in 0..4 {
        let answers: Vec<_> = (0..32)
            .map(|_| setup.begin_with("affine", many.clone()))
            .collect();
        for answer in answers {
            answer.await.unwrap().assert_refused(400, "");
        }
        println!("after many inputs: {} MiB", pss(pid) >> 20);
    }
    wait_for_async(DEADLINE, || async {
        let now = pss(pid);
        (now < before + MEMORY_BOUND)
            .then_some(())
            .ok_or((now >> 20, before >> 20))
    })
    .await;
    assert_eq!(
        setup.server.metric("headroom_http_bodies_bytes", &[]).await,
        0.0
    );
    assert_served(&setup).await;
    bystander.assert_undisturbed().await;
}

/// A request to the declared model whose body comes without an announced length.
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

/// What a client does after it has sent all it has to say.
#[derive(Clone, Copy)]
enum End {
    /// Waits.
    Open,
    /// Says that nothing more comes.
    Closed,
}

/// Sends `bytes` as they are and reads whatever comes until the server closes.
fn talk(address: SocketAddr, bytes: Vec<u8>, end: End) -> impl Future<Output = String> {
    let talk = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address);
        // The server may refuse before it has read all.
        stream.write_all(&bytes).ok();
        if let End::Closed = end {
            stream.shutdown(Shutdown::Write).ok();
        }
        read_all(&mut stream)
    });
    async move { talk.await.unwrap() }
}

/// Sends `bytes`, and then a space at a time for as long as the server lets it.
async fn drip(address: SocketAddr, bytes: Vec<u8>) -> String {
    let mut stream = connect(address);
    stream.write_all(&bytes).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    let read = wait_for_async(DEADLINE, || {
        let spoke = stream.write_all(b" ");
        let read = stream.read(&mut answer);
        async move {
            match (spoke, read) {
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
