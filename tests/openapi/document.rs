//! Reads the OpenAPI document, and compares responses with it.

use jsonschema::Validator;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

/// One route of the document.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) json: Value,
}

/// The document, with schemas that allow no member that they do not name.
pub(crate) struct Document {
    json: Value,
    /// The schemas that references in other schemas refer to.
    components: Value,
}

impl Document {
    pub(crate) fn new(json: Value) -> Self {
        let mut schemas = json["components"]["schemas"].clone();
        for schema in schemas.as_object_mut().unwrap().values_mut() {
            close_members(schema);
        }
        Self {
            components: json!({ "schemas": schemas }),
            json,
        }
    }

    /// Every route.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.json["paths"].as_object().unwrap() {
            for (method, json) in item.as_object().unwrap() {
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    json: json.clone(),
                });
            }
        }
        operations
    }

    /// What is wrong with a value by a schema of the document.
    pub(crate) fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut schema = schema.clone();
        close(&mut schema);
        schema["components"] = self.components.clone();
        let validator: Validator = jsonschema::draft202012::new(&schema).unwrap();
        let faults = validator.iter_errors(value);
        faults
            .map(|fault| format!("{} at {}", fault, fault.instance_path()))
            .collect()
    }

    /// What is wrong with a response by the document.
    pub(crate) async fn faults_of(
        &self,
        operation: &Operation,
        response: reqwest::Response,
    ) -> Vec<String> {
        let status = response.status().as_u16().to_string();
        let documented = self.resolve(&operation.json["responses"][&status]);
        if documented.is_null() {
            let body = response.text().await.unwrap_or_default();
            return vec![format!("the status {status} is not documented: {body}")];
        }
        let media_type = response.headers().get(CONTENT_TYPE).cloned();
        let media_type = media_type.map(|it| it.to_str().unwrap().to_owned());
        // Some event streams do not end.
        let is_stream = media_type.as_deref() == Some("text/event-stream");
        if is_stream && documented["content"].get("text/event-stream").is_some() {
            return Vec::new();
        }
        let body = response.text().await.unwrap();
        let contents = documented["content"].as_object();
        let Some(contents) = contents.filter(|contents| !contents.is_empty()) else {
            let has_body = !body.is_empty();
            let fault = format!("{status} has a body, which is not documented: {body}");
            return has_body.then_some(fault).into_iter().collect();
        };
        let media_type = media_type.unwrap_or_default();
        let plain = media_type.split(';').next().unwrap();
        let Some(content) = contents.get(plain) else {
            return vec![format!(
                "{status} has the media type {media_type:?}, which is not documented"
            )];
        };
        // The answer to HEAD has no body.
        if !plain.ends_with("json") || operation.method == "HEAD" {
            return Vec::new();
        }
        let value = serde_json::from_str(&body).unwrap();
        let faults = self.faults(&content["schema"], &value).into_iter();
        faults.map(|fault| format!("{status}: {fault}")).collect()
    }

    /// The bodies of an operation, each with its place.
    pub(crate) fn contents(&self, operation: &Operation) -> Vec<(Value, String)> {
        let body = (&operation.json["requestBody"], "body".to_owned());
        let responses = operation.json["responses"].as_object().unwrap();
        let responses = responses.iter().map(|(status, it)| (it, status.clone()));
        let mut contents = Vec::new();
        for (item, place) in responses.chain([body]) {
            let content = self.resolve(item)["content"].as_object();
            for content in content.into_iter().flat_map(Map::values) {
                contents.push((content.clone(), place.clone()));
            }
        }
        contents
    }

    fn resolve<'a>(&'a self, item: &'a Value) -> &'a Value {
        match item["$ref"].as_str() {
            Some(reference) => self.json.pointer(&reference[1..]).unwrap(),
            None => item,
        }
    }
}

/// Makes a schema refuse members that it does not name.
fn close(schema: &mut Value) {
    close_members(schema);
    let keys = ["$ref", "allOf", "anyOf", "oneOf", "properties"];
    let names_members = |it: &Map<String, Value>| keys.iter().any(|key| it.contains_key(*key));
    if let Some(schema) = schema.as_object_mut().filter(|it| names_members(it)) {
        schema.insert("unevaluatedProperties".into(), false.into());
    }
}

/// Closes the schemas of the members and elements of a value. The schema of the value itself stays open, since it
/// may be one part of another one.
fn close_members(schema: &mut Value) {
    for (key, value) in schema.as_object_mut().into_iter().flatten() {
        match (key.as_str(), value) {
            ("properties", Value::Object(members)) => members.values_mut().for_each(close),
            ("items" | "additionalProperties", value) => close(value),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(close_members);
            }
            _ => {}
        }
    }
}

#[test]
fn a_member_that_is_not_documented_is_a_fault() {
    let document = Document::new(json!({
        "components": { "schemas": {
            "Name": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
            "Line": { "allOf": [
                { "$ref": "#/components/schemas/Name" },
                { "type": "object", "properties": { "inner": { "$ref": "#/components/schemas/Name" } } },
            ] },
        } },
    }));
    let faults = |value| document.faults(&json!({ "$ref": "#/components/schemas/Line" }), &value);
    assert!(faults(json!({ "name": "a", "inner": { "name": "b" } })).is_empty());
    for wrong in [
        json!({ "name": 1 }),
        json!({ "name": "a", "other": 1 }),
        json!({ "name": "a", "inner": { "name": "b", "other": 1 } }),
    ] {
        assert!(!faults(wrong.clone()).is_empty(), "{wrong}");
    }
}
