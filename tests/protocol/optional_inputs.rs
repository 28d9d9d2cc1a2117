//! Arguments that a request leaves out, and names of inputs and outputs by their positions.

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, output_of};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::Script;
use serde_json::{Value, json};

use crate::BINARY;

/// `x`, and a result that shows which of the other arguments it got.
const OPTIONAL: &str = r#"def forward(self, x: Tensor, mask: Optional[Tensor]=None, scale: float=2., mode: str="mean", sizes: List[int]=[3, 4], count: Optional[int]=None, flag: bool=True) -> Tensor:
  y = torch.mul(x, scale)
  if torch.__isnot__(mask, None):
    y1 = torch.add(y, unchecked_cast(Tensor, mask))
  else:
    y1 = y
  if torch.eq(mode, "mean"):
    y2 = torch.add(y1, torch.mul(torch.len(sizes), 100))
  else:
    y2 = y1
  if torch.__isnot__(count, None):
    y3 = torch.add(y2, torch.mul(unchecked_cast(int, count), 1000))
  else:
    y3 = y2
  if flag:
    y4 = torch.add(y3, 10000)
  else:
    y4 = y3
  return y4
"#;

fn add_model(models: &Models, name: &str, code: &str) {
    models.add(name, 1, |path| Script::new(code).write(path));
}

fn input(name: &str, datatype: &str, data: Value) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": [1], "data": data })
}

fn request(inputs: &[Value]) -> Value {
    json!({ "inputs": inputs })
}

#[tokio::test]
async fn arguments_that_are_left_out_have_their_defaults() {
    let models = Models::new();
    add_model(&models, "m", OPTIONAL);
    let server = Server::start(models.options(BINARY));
    let x = || input("x", "FP32", json!([1.0]));
    let mask = || input("mask", "FP32", json!([0.5]));
    let scale = || input("scale", "FP64", json!([3.0]));
    let count = || input("count", "INT64", json!([7]));
    let flag = || input("flag", "BOOL", json!([false]));
    for (inputs, expected) in [
        (vec![x()], 10_202.0),
        (vec![x(), mask()], 10_202.5),
        (vec![x(), scale()], 10_203.0),
        (vec![count(), x()], 17_202.0),
        (vec![x(), flag()], 202.0),
        (vec![flag(), mask(), count(), x()], 7_202.5),
    ] {
        let answer = server.infer("m", &request(&inputs)).await;
        assert_eq!(answer.number(), expected, "{inputs:?}");
    }
    let misspelt = request(&[input("y", "FP32", json!([1.0]))]);
    let error = server.infer("m", &misspelt).await.error(400);
    assert!(error.contains("no input \"y\""), "{error}");
    let error = server.infer("m", &request(&[scale()])).await.error(400);
    assert!(error.contains("\"x\" is missing"), "{error}");
    assert!(error.contains("optional"), "{error}");
}

#[tokio::test]
async fn an_optional_argument_without_a_default_is_none() {
    let models = Models::new();
    let code = "def forward(self, x: Tensor, bias: Optional[Tensor], y: Tensor) -> Tensor:\n  \
        z = torch.add(x, y)\n  \
        if torch.__isnot__(bias, None):\n    z1 = torch.add(z, unchecked_cast(Tensor, bias))\n  \
        else:\n    z1 = z\n  \
        return z1\n";
    add_model(&models, "m", code);
    let server = Server::start(models.options(BINARY));
    let [x, bias, y] = ["x", "bias", "y"].map(|name| input(name, "FP32", json!([1.0])));
    let without = request(&[x.clone(), y.clone()]);
    assert_eq!(server.infer("m", &without).await.number(), 2.0);
    let with = request(&[x, bias, y]);
    assert_eq!(server.infer("m", &with).await.number(), 3.0);
}

#[tokio::test]
async fn inputs_and_outputs_can_be_named_by_their_positions() {
    let models = Models::new();
    let code = "def forward(self, x: Tensor, k: int=3) -> Tuple[Tensor, Tensor]:\n  \
        return (torch.add(x, k), torch.neg(x))\n";
    add_model(&models, "m", code);
    let server = Server::start(models.options(BINARY));
    let mut positional = request(&[
        input("INPUT__1", "INT64", json!([5])),
        input("INPUT__0", "FP32", json!([1.0])),
    ]);
    positional["outputs"] =
        json!([{ "name": "OUTPUT__1" }, { "name": "OUTPUT__0" }, { "name": "output_0" }]);
    let answer = server.infer("m", &positional).await.ok();
    let names = answer["outputs"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["OUTPUT__1", "OUTPUT__0", "output_0"]);
    assert_eq!(output_of(&answer, "OUTPUT__0")["data"], json!([6.0]));
    assert_eq!(output_of(&answer, "OUTPUT__1")["data"], json!([-1.0]));
    positional["outputs"] = json!([{ "name": "OUTPUT__2" }]);
    let error = server.infer("m", &positional).await.error(400);
    assert!(error.contains("output_0, output_1"), "{error}");
    let unknown = request(&[input("INPUT__2", "FP32", json!([1.0]))]);
    server.infer("m", &unknown).await.error(400);
}

/// What the metadata of a model says of its inputs and outputs.
async fn metadata(server: &Server, model: &str) -> (Value, Value) {
    let path = format!("/v2/models/{model}");
    let mut metadata = server.get_json(&path).await.ok();
    (metadata["inputs"].take(), metadata["outputs"].take())
}

#[tokio::test]
async fn metadata_has_names_before_the_first_load_and_then_what_was_seen() {
    let models = Models::new();
    let code = "def forward(self, x: Tensor, k: Optional[int]=None) -> Tuple[Tensor, float]:\n  \
        return (torch.neg(x), 0.5)\n";
    add_model(&models, "m", code);
    let server = Server::start(models.options(BINARY));
    let tensor = |name: &str, datatype: &str, shape: Value| json!({ "name": name, "datatype": datatype, "shape": shape });
    let k = tensor("k", "INT64", json!([1]));
    let before = (
        json!([tensor("x", "UNKNOWN", json!([-1])), k]),
        json!([
            tensor("output_0", "UNKNOWN", json!([-1])),
            tensor("output_1", "FP64", json!([]))
        ]),
    );
    for _ in 0..2 {
        assert_eq!(metadata(&server, "m").await, before);
    }
    let loads = server.metric("headroom_lazy_loads_total", &["name=\"m:1\""]);
    assert_eq!(loads.await, 0.0);
    let ask = |shape: Value, data: Value| {
        request(&[json!({ "name": "x", "datatype": "INT32", "shape": shape, "data": data })])
    };
    server
        .infer("m", &ask(json!([1, 2]), json!([1, 2])))
        .await
        .ok();
    let seen = |shape: Value| {
        let x = tensor("x", "INT32", shape.clone());
        let outputs = json!([
            tensor("output_0", "INT32", shape),
            tensor("output_1", "FP64", json!([]))
        ]);
        (json!([x, k]), outputs)
    };
    assert_eq!(metadata(&server, "m").await, seen(json!([1, 2])));
    server
        .infer("m", &ask(json!([2, 2]), json!([1, 2, 3, 4])))
        .await
        .ok();
    assert_eq!(metadata(&server, "m").await, seen(json!([-1, 2])));
    // A request for some outputs does not hide the others.
    let mut one = ask(json!([2, 2]), json!([1, 2, 3, 4]));
    one["outputs"] = json!([{ "name": "output_1" }]);
    server.infer("m", &one).await.ok();
    // Also while it is not loaded.
    server.unload("m").await.ok();
    assert_eq!(metadata(&server, "m").await, seen(json!([-1, 2])));
}

#[tokio::test]
async fn a_file_that_metadata_shows_to_be_invalid_is_not_ready() {
    let models = Models::new();
    models.add("m", 1, |path| std::fs::write(path, "<!DOCTYPE html>"));
    let server = Server::start(models.options(BINARY));
    let error = server.get_json("/v2/models/m").await.error(422);
    assert!(error.contains("HTML"), "{error}");
    let error = server.get_json("/v2/models/m/ready").await.error(503);
    assert!(error.contains("HTML"), "{error}");
    server.infer("m", &floats("x", &[0.0])).await.error(422);
}
