use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use super::*;

fn routes() -> Vec<Route> {
    routes::table().into_iter().chain(admin::table()).collect()
}

fn json() -> Value {
    serde_json::from_str(&text().unwrap()).unwrap()
}

/// Lists where two documents differ.
fn differences(at: &str, committed: &Value, made: &Value, found: &mut Vec<String>) {
    match (committed, made) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                match (old.get(key), new.get(key)) {
                    (Some(old), Some(new)) => differences(&at, old, new, found),
                    (Some(_), None) => found.push(format!("- {at}")),
                    (None, _) => found.push(format!("+ {at}")),
                }
            }
        }
        (old, new) if old != new => found.push(format!("! {at}: {old} is now {new}")),
        _ => {}
    }
}

#[test]
fn the_committed_document_is_that_of_this_version() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let committed = fs::read_to_string(path).unwrap_or_default();
    let made = text().unwrap();
    if committed == made {
        return;
    }
    let mut found = Vec::new();
    let committed = serde_json::from_str(&committed).unwrap_or_default();
    differences("", &committed, &json(), &mut found);
    panic!(
        "docs/openapi.json is not the document of this version; `make openapi` writes it. Differences:\n{}",
        found.join("\n")
    );
}

#[test]
fn every_route_is_in_the_document_with_its_role_and_class() {
    let document = json();
    for route in routes() {
        let method = route.method.as_str().to_lowercase();
        let operation = &document["paths"][route.path][&method];
        assert_eq!(
            operation["x-access"]["role"],
            json!(route.role),
            "{route:?}"
        );
        assert_eq!(
            operation["x-access"]["class"],
            json!(route.class),
            "{route:?}"
        );
    }
}

#[test]
fn every_variable_of_a_path_is_described() {
    let document = json();
    for route in routes() {
        let method = route.method.as_str().to_lowercase();
        let parameters = &document["paths"][route.path][&method]["parameters"];
        let described: BTreeSet<_> = parameters
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let segments = route.path.split('/');
        let variables = segments.filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(described, variables.collect(), "{route:?}");
    }
}

/// Lists the members without a description, of a schema and of the schemas in it.
fn undescribed(at: &str, schema: &Value, found: &mut Vec<String>) {
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        let parts = member["oneOf"].as_array().into_iter().flatten();
        let is_described = parts
            .chain([member])
            .any(|it| it["description"].is_string());
        // The tag of an enum has no field of its own.
        let is_tag = member["enum"]
            .as_array()
            .is_some_and(|values| values.len() == 1);
        if !is_described && !is_tag {
            found.push(at.clone());
        }
        undescribed(&at, member, found);
    }
    for key in ["allOf", "oneOf"] {
        for part in schema[key].as_array().into_iter().flatten() {
            undescribed(at, part, found);
        }
    }
    if schema["items"].is_object() {
        undescribed(at, &schema["items"], found);
    }
}

#[test]
fn every_type_and_every_member_of_it_has_a_description() {
    let document = json();
    let mut found = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if !schema["description"].is_string() {
            found.push(name.clone());
        }
        undescribed(name, schema, &mut found);
    }
    for route in routes() {
        for parameter in (route.docs)().parameters {
            if parameter.description.is_none() {
                found.push(format!("{route:?} {}", parameter.name));
            }
        }
    }
    assert!(
        found.is_empty(),
        "without a doc comment: {}",
        found.join(", ")
    );
}

#[test]
fn no_two_types_have_the_same_name() {
    let mut known: BTreeMap<String, RefOr<Schema>> = BTreeMap::new();
    for route in routes() {
        for (name, schema) in (route.docs)().schemas {
            let before = known.entry(name.clone()).or_insert_with(|| schema.clone());
            assert!(
                *before == schema,
                "two types are called {name}: use #[schema(as = …)]"
            );
        }
    }
}

#[test]
fn no_two_routes_have_the_same_operation_id() {
    let mut ids = BTreeSet::new();
    for route in routes() {
        assert!(ids.insert(operation_id(&route)), "{route:?}");
    }
}

/// Lists the composed schemas with parts that generators of clients lose: alternatives, and composed schemas
/// without a name.
fn lost(at: &str, schema: &Value, schemas: &Value, found: &mut Vec<String>) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if has_alternatives(part, schemas) || part.get("allOf").is_some() {
            found.push(at.to_owned());
        }
    }
    let members = schema.as_object().into_iter().flatten();
    let members = members.map(|(key, member)| (format!("{at}/{key}"), member));
    let items = schema.as_array().into_iter().flatten().enumerate();
    let items = items.map(|(index, item)| (format!("{at}/{index}"), item));
    for (at, inner) in members.chain(items) {
        lost(&at, inner, schemas, found);
    }
}

fn has_alternatives(schema: &Value, schemas: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.trim_start_matches("#/components/schemas/");
        return has_alternatives(&schemas[name], schemas);
    }
    let parts = schema["allOf"].as_array().into_iter().flatten();
    schema.get("oneOf").is_some()
        || schema.get("anyOf").is_some()
        || parts
            .into_iter()
            .any(|part| has_alternatives(part, schemas))
}

#[test]
fn generators_of_clients_lose_no_part_of_a_schema() {
    let document = json();
    let mut found = Vec::new();
    lost(
        "",
        &document,
        &document["components"]["schemas"],
        &mut found,
    );
    assert!(
        found.is_empty(),
        "`allOf` with `oneOf`, `anyOf` or `allOf` inside: {}",
        found.join(", ")
    );
}
