//! What the server answers is what the document says: each route, with the document's own examples.

use std::collections::BTreeMap;
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::tensor;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::BINARY;
use crate::document::{Document, Operation};

/// Longest time of one request, those that load a model or start a private server included.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

async fn start() -> (Server, Models, Document) {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let chain = "chains.ethereum.providers.node.url = 'http://127.0.0.1:1'";
    let server = Server::start(models.options(BINARY).settings(chain));
    let document = Document::new(server.get_json("/openapi.json").await.ok());
    (server, models, document)
}

/// The request for an operation, with these values of the variables in its path.
fn request(
    server: &Server,
    operation: &Operation,
    variables: &BTreeMap<&str, String>,
) -> RequestBuilder {
    let mut path = operation.path.clone();
    for (name, value) in variables {
        path = path.replace(&format!("{{{name}}}"), value);
    }
    assert!(
        !path.contains('{'),
        "{path}: add a value of the variable to this test"
    );
    let is_admin = operation.json.get("servers").is_some();
    let url = if is_admin {
        server.admin_url(&path)
    } else {
        server.url(&path)
    };
    let method: Method = operation.method.parse().unwrap();
    let request = server.client().request(method, url).timeout(REQUEST_WITHIN);
    let body = operation.json["requestBody"]["content"]["application/json"]["example"].clone();
    if operation.path.ends_with("/infer") {
        let input = tensor("x", "FP32", &[1, 3], json!([1, 2, 3]));
        return request.json(&json!({ "id": "42", "inputs": [input] }));
    }
    if body.is_null() {
        request
    } else {
        request.json(&body)
    }
}

async fn faults(
    server: &Server,
    document: &Document,
    variables: &BTreeMap<&str, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for operation in document.operations() {
        let response = request(server, &operation, variables).send().await.unwrap();
        for fault in document.faults_of(&operation, response).await {
            found.push(format!("{} {}: {fault}", operation.method, operation.path));
        }
    }
    found
}

async fn a_finished_job(server: &Server) -> Value {
    let path = "/api/performance/lazy-loader/preload?wait=10";
    let answer = server
        .post_json(path, &json!({ "names": ["affine", "no-such-model"] }))
        .await;
    answer.ok()
}

#[tokio::test]
async fn every_answer_is_as_the_document_says() {
    let (server, _models, document) = start().await;
    let job = a_finished_job(&server).await;
    let variables = |model: &str, version: &str, pool: &str, id: &str, chain: &str| {
        let value = |text: &str| text.to_owned();
        BTreeMap::from([
            ("model", value(model)),
            ("version", value(version)),
            ("name", format!("{model}:1")),
            ("pool", value(pool)),
            ("id", value(id)),
            ("token", value(id)),
            ("chain", value(chain)),
            ("provider", value("node")),
        ])
    };
    let id = job["id"].as_str().unwrap();
    let known = variables("affine", "1", "redis-cache", id, "ethereum");
    let unknown = variables("other", "x", "other", "other", "other");
    // The first time with a loaded model and a cold pool, the second time the other way round.
    for variables in [&known, &known, &unknown] {
        let faults = faults(&server, &document, variables).await;
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

#[tokio::test]
async fn an_unknown_parameter_is_refused_as_the_document_says() {
    let (server, _models, document) = start().await;
    for operation in document.operations() {
        let takes_query = operation.json["responses"].get("400").is_some();
        if operation.path.contains('{') || operation.path.starts_with("/v2") || !takes_query {
            continue;
        }
        let mut asked = operation.clone();
        asked.path.push_str("?no-such-parameter=1");
        let response = request(&server, &asked, &BTreeMap::new())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{}", operation.path);
        let faults = document.faults_of(&operation, response).await;
        assert!(
            faults.is_empty(),
            "{}: {}",
            operation.path,
            faults.join("\n")
        );
    }
}

#[tokio::test]
async fn every_example_has_the_schema_that_it_is_an_example_of() {
    let (_server, _models, document) = start().await;
    let mut found = Vec::new();
    for operation in document.operations() {
        for (content, place) in document.contents(&operation) {
            if let Some(example) = content.get("example") {
                for fault in document.faults(&content["schema"], example) {
                    found.push(format!(
                        "{} {} {place}: {fault}",
                        operation.method, operation.path
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
