//! The binary tensor data extension, and compressed bodies.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats, infer_path, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::BINARY;

const JSON_LENGTH: &str = "inference-header-content-length";

/// Returns its tensor and its strings.
pub(crate) fn strings(path: &std::path::Path) -> std::io::Result<()> {
    let code = "def forward(self, x: Tensor, names: List[str]) -> Tuple[Tensor, List[str]]:\n  return (x, names)\n";
    Script::new(code).write(path)
}

fn start(models: &Models) -> Server {
    models.add("echo", 1, torchscript::echo);
    models.add("strings", 1, strings);
    Server::start(models.options(BINARY))
}

/// An input whose bytes follow the JSON.
fn input(name: &str, datatype: &str, shape: &[i64], bytes: &[u8]) -> Value {
    json!({
        "name": name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": bytes.len() },
    })
}

/// Strings, each after its length.
fn prefixed(texts: &[&[u8]]) -> Vec<u8> {
    let prefixed = texts
        .iter()
        .map(|text| [&(text.len() as u32).to_le_bytes(), *text].concat());
    prefixed.collect::<Vec<_>>().concat()
}

/// An answer with binary data.
struct Binary {
    headers: HeaderMap,
    json: Value,
    data: Vec<u8>,
}

/// Sends JSON and bytes, and reads the answer, which has this form too.
async fn send(server: &Server, model: &str, json: &Value, data: &[u8]) -> Binary {
    let response = request(server, model, json, data).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    let headers = response.headers().clone();
    let body = response.bytes().await.unwrap();
    let length = headers[JSON_LENGTH].to_str().unwrap().parse().unwrap();
    let (json, data) = body.split_at(length);
    Binary {
        headers,
        json: serde_json::from_slice(json).unwrap(),
        data: data.to_vec(),
    }
}

fn request(server: &Server, model: &str, json: &Value, data: &[u8]) -> reqwest::RequestBuilder {
    let json = json.to_string();
    let request = server.client().post(server.url(&infer_path(model)));
    let request = request.header(JSON_LENGTH, json.len());
    request.body([json.as_bytes(), data].concat())
}

#[tokio::test]
async fn tensors_of_every_datatype_are_returned_as_bytes() {
    let models = Models::new();
    let server = start(&models);
    for (datatype, size) in [
        ("BOOL", 1),
        ("UINT8", 1),
        ("UINT16", 2),
        ("UINT32", 4),
        ("UINT64", 8),
        ("INT8", 1),
        ("INT16", 2),
        ("INT32", 4),
        ("INT64", 8),
        ("FP16", 2),
        ("BF16", 2),
        ("FP32", 4),
        ("FP64", 8),
    ] {
        // None, a few, in the frame, in the arena.
        for count in [0, 3, 5000, 300_000] {
            let bytes = (0..count * size).map(|at| if size == 1 { at % 2 } else { at % 251 });
            let bytes: Vec<u8> = bytes.map(|byte| byte as u8).collect();
            let request = json!({
                "inputs": [input("x", datatype, &[count], &bytes)],
                "parameters": { "binary_data_output": true },
            });
            let answer = send(&server, "echo", &request, &bytes).await;
            assert_eq!(answer.data, bytes, "{datatype}");
            let output = input("output", datatype, &[count], &bytes);
            assert_eq!(answer.json["outputs"], json!([output]), "{datatype}");
            assert_eq!(answer.headers["content-type"], "application/octet-stream");
            assert!(answer.headers.contains_key("content-length"));
        }
    }
    for account in ["request_bodies", "tensors", "answers", "answer_text"] {
        wait_for_async(DEADLINE, || async {
            let bytes = server.buffer_bytes(account).await;
            if bytes == 0 { Ok(()) } else { Err(bytes) }
        })
        .await;
    }
}

#[tokio::test]
async fn strings_are_bytes_in_json_and_as_binary_data() {
    let models = Models::new();
    let server = start(&models);
    let texts = json!(["a", "", "é\n", "x".repeat(10_000)]);
    let x = tensor("x", "INT8", &[1], json!([7]));
    let request = json!({ "inputs": [x.clone(), tensor("names", "BYTES", &[4], texts.clone())] });
    let answer = server.infer("strings", &request).await.ok();
    assert_eq!(
        answer["outputs"],
        json!([
            tensor("output_0", "INT8", &[1], json!([7])),
            tensor("output_1", "BYTES", &[4], texts),
        ])
    );
    // Bytes that are no text, and enough of them for the arena.
    let long = vec![0xff; 100_000];
    let data = prefixed(&[b"\xff\xfe", b"", &long]);
    let mut request = json!({ "inputs": [x, input("names", "BYTES", &[3], &data)] });
    let refused = Answer::to(self::request(&server, "strings", &request, &data)).await;
    refused.assert_refused(422, "binary_data");
    request["outputs"] = json!([{ "name": "output_0" }]);
    let answer = Answer::to(self::request(&server, "strings", &request, &data)).await;
    assert_eq!(answer.ok()["outputs"][0]["data"], json!([7]));
    request["outputs"] = json!([
        { "name": "output_1", "parameters": { "binary_data": true } },
        { "name": "output_0", "parameters": { "binary_data": false } },
    ]);
    let answer = send(&server, "strings", &request, &data).await;
    assert_eq!(answer.data, data);
    let outputs = [
        input("output_1", "BYTES", &[3], &data),
        tensor("output_0", "INT8", &[1], json!([7])),
    ];
    assert_eq!(answer.json["outputs"], json!(outputs));
}

#[tokio::test]
async fn large_json_and_binary_data_share_a_response() {
    let models = Models::new();
    models.add("many", 1, torchscript::tuple_list_dict);
    let server = start(&models);
    let floats: Vec<f32> = (0..100_000).map(|it| it as f32).collect();
    let data: Vec<u8> = floats.iter().flat_map(|it| it.to_le_bytes()).collect();
    let request = json!({
        "inputs": [input("x", "FP32", &[100_000], &data)],
        "outputs": [
            { "name": "output_0", "parameters": { "binary_data": true } },
            { "name": "output_1_0" },
            { "name": "output_1_1", "parameters": { "binary_data": true } },
        ],
    });
    let answer = send(&server, "many", &request, &data).await;
    let plus = |more: f32| floats.iter().map(move |it| it + more);
    let texts = answer.json["outputs"][1]["data"].as_array().unwrap();
    assert!(
        texts
            .iter()
            .map(|it| it.as_f64().unwrap() as f32)
            .eq(plus(1.0))
    );
    let (first, last) = answer.data.split_at(data.len());
    assert_eq!(first, data);
    assert!(
        plus(2.0)
            .flat_map(f32::to_le_bytes)
            .eq(last.iter().copied())
    );
}

#[tokio::test]
async fn binary_data_that_does_not_fit_its_description_is_refused() {
    let models = Models::new();
    let server = start(&models);
    let one = json!({ "inputs": [input("x", "FP32", &[2], &[0; 8])] });
    let names = |data: &[u8]| {
        let x = tensor("x", "INT8", &[1], json!([7]));
        json!({ "inputs": [x, input("names", "BYTES", &[2], data)] })
    };
    for (model, json, data, word) in [
        ("echo", one.clone(), &[0; 7][..], "7 bytes are left"),
        ("echo", one.clone(), &[0; 9], "1 bytes more"),
        (
            "echo",
            json!({ "inputs": [input("x", "FP32", &[2], &[0; 7])] }),
            &[0; 7],
            "need 8",
        ),
        (
            "echo",
            json!({ "inputs": [input("x", "BOOL", &[1], &[2])] }),
            &[2],
            "neither 0 nor 1",
        ),
        ("strings", names(&[0; 8]), &[0; 8], ""),
        ("strings", names(&[0; 12]), &[0; 12], "has 3 strings"),
        (
            "strings",
            names(&[0, 0, 0, 0, 9, 0, 0, 0]),
            &[0, 0, 0, 0, 9, 0, 0, 0],
            "in the middle of a string",
        ),
    ] {
        let answer = Answer::to(request(&server, model, &json, data)).await;
        if word.is_empty() {
            answer.ok();
        } else {
            answer.assert_refused(400, word);
        }
    }
    for length in ["x", "-1", "1000", "0"] {
        let wrong = server.client().post(server.url(&infer_path("echo")));
        let wrong = wrong.header(JSON_LENGTH, length).body(one.to_string());
        let answer = Answer::to(wrong).await;
        answer.assert_refused(400, JSON_LENGTH);
    }
    let without = server.infer("echo", &one).await;
    without.assert_refused(400, JSON_LENGTH);
}

#[tokio::test]
async fn a_body_whose_tensors_wait_for_the_model_takes_no_room_of_other_bodies() {
    let models = Models::new();
    let forward = "def forward(self, x: Tensor, milliseconds: int) -> int:\n  \
        begun = ops.prim.TimePoint()\n  wanted = milliseconds * 1000000\n  \
        while ops.prim.TimePoint() - begun < wanted:\n    pass\n  return milliseconds\n";
    models.add("waits", 1, |path| Script::new(forward).write(path));
    let server = start(&models);
    let data = vec![0u8; 1 << 20];
    let json = json!({ "inputs": [
        input("x", "UINT8", &[1 << 20], &data),
        tensor("milliseconds", "INT64", &[1], json!([2000])),
    ]});
    let answer = Answer::to(request(&server, "waits", &json, &data));
    let freed = wait_for_async(DEADLINE, || async {
        let bodies = server.buffer_bytes("request_bodies").await;
        let tensors = server.buffer_bytes("tensors").await;
        let is_waiting = bodies == 0 && tensors > 2 << 20;
        if is_waiting {
            Ok(())
        } else {
            Err((bodies, tensors))
        }
    });
    let (answer, ()) = tokio::join!(answer, freed);
    assert_eq!(answer.output(), [2000.0]);
}

#[tokio::test]
async fn outputs_with_zero_bytes_are_refused_and_not_cut() {
    let models = Models::new();
    let forward = "def forward(self, x: Tensor) -> Tuple[Tensor, str, List[str]]:\n  \
                   zero = torch.chr(0)\n  return (x, zero, [\"a\", zero])\n";
    models.add("zeros", 1, |path| Script::new(forward).write(path));
    let server = start(&models);
    let x = tensor("x", "INT8", &[1], json!([7]));
    for (output, name) in [
        (json!([]), "output_1"),
        (json!([{ "name": "output_2" }]), "output_2"),
    ] {
        let request = json!({ "inputs": [x.clone()], "outputs": output });
        let answer = server.infer("zeros", &request).await;
        answer.assert_refused(422, &format!("`{name}` has a string with a zero byte"));
    }
    let request = json!({ "inputs": [x], "outputs": [{ "name": "output_0" }] });
    let answer = server.infer("zeros", &request).await.ok();
    assert_eq!(answer["outputs"][0]["data"], json!([7]));
}

#[tokio::test]
async fn more_elements_than_a_list_can_have_are_refused() {
    let models = Models::new();
    let forward = "def forward(self, name: str, names: List[str], sizes: List[int]) -> int:\n  return torch.len(names) + torch.len(sizes)\n";
    models.add("lists", 1, |path| Script::new(forward).write(path));
    let server = start(&models);
    let most = 1usize << 20;
    // How many strings and numbers there are of each argument; each has as few bytes as it can.
    for (name, names, sizes, word) in [
        (1, 100_000, 100_000, None),
        (most, 1, 1, Some("the model takes one")),
        (1, most + 1, 1, Some("at most 1048576")),
        (1, 1, most + 1, Some("at most 1048576")),
    ] {
        let data = vec![0u8; (name + names) * 4 + sizes];
        let count = |count: usize| count as i64;
        let json = json!({ "inputs": [
            input("name", "BYTES", &[count(name)], &data[..name * 4]),
            input("names", "BYTES", &[count(names)], &data[..names * 4]),
            input("sizes", "INT8", &[count(sizes)], &data[..sizes]),
        ]});
        let answer = Answer::to(request(&server, "lists", &json, &data)).await;
        match word {
            None => assert_eq!(answer.output(), [(names + sizes) as f64]),
            Some(word) => answer.assert_refused(400, word),
        }
    }
}

/// Compressed by another program than the server.
fn gzip(data: &[u8]) -> Vec<u8> {
    use headroom_test_support::child;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, data).unwrap();
    let output = child::output(child::command("gzip").arg("-c").arg(&path), DEADLINE).unwrap();
    assert!(output.status.success());
    output.stdout
}

fn compressed(server: &Server, path: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
    let request = server.client().post(server.url(path));
    request.header("content-encoding", "gzip").body(body)
}

#[tokio::test]
async fn compressed_requests_are_read_by_every_resource_of_the_protocol() {
    let models = Models::new();
    let server = start(&models);
    let data: Vec<f32> = (0..200_000).map(|it| it as f32).collect();
    let request = floats("x", &data).to_string();
    let answer = compressed(&server, &infer_path("echo"), gzip(request.as_bytes()));
    let output = Answer::to(answer).await.output();
    assert!(output.iter().map(|it| *it as f32).eq(data));
    let answer = compressed(&server, "/v2/repository/index", gzip(b"{\"ready\":true}"));
    assert_eq!(Answer::to(answer).await.ok()[0]["name"], "echo");
    let cut = gzip(request.as_bytes());
    let cut = compressed(&server, &infer_path("echo"), cut[..cut.len() / 2].to_vec());
    Answer::to(cut).await.assert_refused(400, "ends too early");
}

#[tokio::test]
async fn a_body_that_is_too_large_when_it_is_decoded_is_refused_early() {
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let settings = "server.request_body_max = '1MiB'";
    let server = Server::start(models.options(BINARY).settings(settings));
    // 200 MB of zeros in 200 KB.
    let bomb = gzip(&vec![0; 200_000_000]);
    assert!(bomb.len() < 1 << 20);
    let before = peak_memory(server.pid());
    for _ in 0..3 {
        let answer = compressed(&server, &infer_path("echo"), bomb.clone());
        Answer::to(answer).await.assert_refused(413, "1048576");
    }
    let grown = peak_memory(server.pid()).saturating_sub(before);
    assert!(grown < 50 << 20, "{grown}");
    assert_eq!(server.buffer_bytes("request_bodies").await, 0);
}

/// The most memory that a process has had, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn answers_are_compressed_when_the_client_asks() {
    let models = Models::new();
    let server = start(&models);
    for count in [1, 2000, 200_000] {
        let data = vec![0u8; count * 4];
        for binary in [false, true] {
            let json = json!({
                "inputs": [input("x", "FP32", &[count as i64], &data)],
                "parameters": { "binary_data_output": binary },
            });
            let plain = request(&server, "echo", &json, &data).send().await.unwrap();
            let expected = plain.bytes().await.unwrap();
            let asked =
                request(&server, "echo", &json, &data).header("accept-encoding", "br, gzip");
            let answer = asked.send().await.unwrap();
            let coding = answer.headers().get("content-encoding").cloned();
            let body = answer.bytes().await.unwrap();
            if expected.len() < 1024 {
                assert_eq!((coding, body), (None, expected));
                continue;
            }
            assert_eq!(coding.unwrap(), "gzip");
            assert!(body.len() * 5 < expected.len());
            assert_eq!(gunzip(&body), expected);
        }
    }
}

fn gunzip(data: &[u8]) -> Vec<u8> {
    use headroom_test_support::child;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.gz");
    std::fs::write(&path, data).unwrap();
    let output = child::output(child::command("gzip").arg("-dc").arg(&path), DEADLINE).unwrap();
    assert!(output.status.success());
    output.stdout
}
