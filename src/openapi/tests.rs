use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use super::*;

fn routes() -> Vec<Route> {
    routes::table().into_iter().chain(admin::table()).collect()
}

fn json() -> Value {
    serde_json::from_str(&text().unwrap()).unwrap()
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
