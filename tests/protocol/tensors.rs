//! Tensors in requests and answers: every datatype, every shape, large tensors, several outputs.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, output_of, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::{Value, json};

use crate::BINARY;

fn start(models: &Models) -> Server {
    models.add("echo", 1, torchscript::echo);
    models.add("many", 1, torchscript::tuple_list_dict);
    Server::start(models.options(BINARY))
}

/// Sends a tensor to the echo model and asserts that it is returned, as a flat array.
async fn assert_echoed(server: &Server, datatype: &str, shape: &[i64], data: Value, flat: &Value) {
    let request = json!({ "inputs": [tensor("x", datatype, shape, data)] });
    let answer = server.infer("echo", &request).await.ok();
    assert_eq!(
        answer["outputs"],
        json!([tensor("output", datatype, shape, flat.clone())])
    );
}

#[tokio::test]
async fn every_datatype_is_returned_unchanged() {
    let models = Models::new();
    let server = start(&models);
    for (datatype, data) in [
        ("BOOL", json!([true, false, true])),
        ("UINT8", json!([0, 1, 255])),
        ("UINT16", json!([0, 1, 65535])),
        ("UINT32", json!([0, 1, 4294967295_u32])),
        ("UINT64", json!([0, 1, u64::MAX])),
        ("INT8", json!([-128, 0, 127])),
        ("INT16", json!([-32768, 1, 32767])),
        ("INT32", json!([-2147483648, 1, 2147483647])),
        (
            "INT64",
            json!([i64::MIN, 9_007_199_254_740_993_i64, i64::MAX]),
        ),
        ("FP16", json!([0.5, -65504.0, 0.25])),
        ("BF16", json!([1.0, -0.5, 2.0])),
        ("FP32", json!([0.1_f32, -3.4028235e38, 1e-45])),
        ("FP64", json!([0.1, -1.7976931348623157e308, 5e-324])),
    ] {
        // FP32 numbers are written with the fewest digits that identify them.
        let flat = match datatype {
            "FP32" => json!([0.1, -3.4028235e38, 1e-45]),
            _ => data.clone(),
        };
        assert_echoed(&server, datatype, &[3], data.clone(), &flat).await;
        let nested = json!([[data[0]], [data[1]], [data[2]]]);
        assert_echoed(&server, datatype, &[3, 1], nested, &flat).await;
    }
}

#[tokio::test]
async fn every_shape_is_returned_unchanged() {
    let models = Models::new();
    let server = start(&models);
    for (shape, data, flat) in [
        (&[][..], json!([7]), json!([7])),
        (&[1], json!([7]), json!([7])),
        (&[0], json!([]), json!([])),
        (&[0, 3], json!([]), json!([])),
        (&[2, 0], json!([[], []]), json!([])),
        (
            &[2, 3],
            json!([[1, 2, 3], [4, 5, 6]]),
            json!([1, 2, 3, 4, 5, 6]),
        ),
        (
            &[2, 3],
            json!([1, 2, 3, 4, 5, 6]),
            json!([1, 2, 3, 4, 5, 6]),
        ),
        (
            &[1, 1, 1, 1, 1, 1, 1, 2],
            json!([[[[[[[[8, 9]]]]]]]]),
            json!([8, 9]),
        ),
    ] {
        assert_echoed(&server, "INT32", shape, data, &flat).await;
    }
}

#[tokio::test]
async fn random_doubles_are_returned_bit_for_bit() {
    let models = Models::new();
    let server = start(&models);
    let data: Vec<f64> = doubles().take(10_000).collect();
    assert_same(&echo(&server, &data).await, &data);
}

#[tokio::test]
async fn large_tensors_are_returned_unchanged() {
    let models = Models::new();
    let server = start(&models);
    // 8 MiB do not fit into a frame, so both directions use shared memory.
    let data: Vec<f64> = doubles().take(1 << 20).collect();
    assert_same(&echo(&server, &data).await, &data);
    // The arenas are reused, by smaller tensors and by one of the same size.
    for size in [1, 300_000, 70_000, 1 << 20] {
        assert_same(&echo(&server, &data[..size]).await, &data[..size]);
    }
}

/// Finite pseudo-random numbers of every magnitude.
fn doubles() -> impl Iterator<Item = f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from_bits(state)
    })
    .filter(|number| number.is_finite())
}

async fn echo(server: &Server, data: &[f64]) -> Vec<f64> {
    let input = tensor("x", "FP64", &[data.len() as i64], json!(data));
    let answer = server.infer("echo", &json!({ "inputs": [input] })).await;
    answer.output()
}

#[track_caller]
fn assert_same(left: &[f64], right: &[f64]) {
    assert_eq!(left.len(), right.len());
    let first_difference = left
        .iter()
        .zip(right)
        .position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(index) = first_difference {
        panic!(
            "element {index} is {:e} instead of {:e}",
            left[index], right[index]
        );
    }
}

#[tokio::test]
async fn tuples_lists_and_dicts_become_named_outputs() {
    let models = Models::new();
    let server = start(&models);
    let answer = server.infer("many", &floats("x", &[1.0, 2.0])).await.ok();
    let outputs: Vec<(Value, Value)> = answer["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| (output["name"].clone(), output["data"].clone()))
        .collect();
    let expected = [
        ("output_0", json!([1.0, 2.0])),
        ("output_1_0", json!([2.0, 3.0])),
        ("output_1_1", json!([3.0, 4.0])),
        ("output_2.sum", json!([3.0])),
        (
            "output_2.seven",
            output_of(&answer, "output_2.seven")["data"].clone(),
        ),
    ];
    assert_eq!(outputs, expected.map(|(name, data)| (json!(name), data)));
    assert_eq!(output_of(&answer, "output_2.sum")["shape"], json!([]));
    assert_eq!(
        output_of(&answer, "output_2.seven")["data"][0].as_f64(),
        Some(7.0)
    );
}

#[tokio::test]
async fn only_the_requested_outputs_are_returned_in_the_requested_order() {
    let models = Models::new();
    let server = start(&models);
    let mut request = floats("x", &[1.0]);
    request["outputs"] = json!([{ "name": "output_1_1" }, { "name": "output_0" }]);
    let answer = server.infer("many", &request).await.ok();
    let names = |answer: &Value| {
        let outputs = answer["outputs"].as_array().unwrap().iter();
        outputs
            .map(|output| output["name"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&answer), ["output_1_1", "output_0"]);
}

#[tokio::test]
async fn what_is_no_number_is_returned_by_its_name() {
    let models = Models::new();
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return torch.div(x, x - x)\n";
    models.add("divides", 1, |path| {
        torchscript::Script::new(code).write(path)
    });
    let server = Server::start(models.options(BINARY));
    let answer = server
        .infer("divides", &floats("x", &[1.0, 0.0, -1.0]))
        .await
        .ok();
    assert_eq!(
        output_of(&answer, "output")["data"],
        json!(["Infinity", "NaN", "-Infinity"])
    );
}

#[tokio::test]
async fn lists_tuples_and_dicts_are_made_of_inputs_with_names_of_their_places() {
    let models = Models::new();
    let code = "def forward(self, x: List[Tensor], by: Dict[str, Tensor], sizes: List[int]) -> \
                Tuple[List[Tensor], Dict[str, Tensor], List[int]]:\n  return (x, by, sizes)\n";
    models.add("parts", 1, |path| {
        torchscript::Script::new(code).write(path)
    });
    let server = Server::start(models.options(BINARY));
    let one = |name: &str, value: i64| tensor(name, "INT64", &[1], json!([value]));
    let sizes = tensor("sizes", "INT32", &[2], json!([5, 6]));
    let inputs = [
        one("x.0", 1),
        one("by.b", 4),
        sizes.clone(),
        one("x.1", 2),
        one("by.a", 3),
    ];
    let answer = server.infer("parts", &json!({ "inputs": inputs })).await;
    let expected = [
        one("output_0_0", 1),
        one("output_0_1", 2),
        one("output_1.b", 4),
        one("output_1.a", 3),
        tensor("output_2", "INT64", &[2], json!([5, 6])),
    ];
    assert_eq!(answer.ok()["outputs"], json!(expected));
    let metadata = server.get_json("/v2/models/parts").await.ok();
    let inputs = metadata["inputs"].as_array().unwrap().iter();
    let names: Vec<&Value> = inputs.map(|input| &input["name"]).collect();
    assert_eq!(names, ["x.0", "x.1", "by.b", "by.a", "sizes"]);
    let missing = [one("x.0", 1), one("x.2", 2), one("by.b", 4), sizes];
    let answer = server.infer("parts", &json!({ "inputs": missing })).await;
    answer.assert_refused(400, "`x.1` (Tensor) is missing");
}
