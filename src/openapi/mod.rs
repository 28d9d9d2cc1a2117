//! The OpenAPI document of the server, made from the route tables.
//!
//! Why it exists: what the document says of a route must not differ from the route. So method, path, role
//! and class come from the table, schemas from the types that are read and written, and every route has
//! [`Docs`]. `docs/openapi.json` is the document of the current version; a test compares them.

mod docs;
mod problems;
mod variants;

use actix_web::http::Method;
use serde_json::json;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter};
use utoipa::openapi::{
    Components, Info, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Schema, Server,
    ServerBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::admin;
use crate::problem::{ProblemBody, ProblemKind, ProtocolBody};
use crate::routes::{self, Route, is_protocol};
pub use docs::Docs;
use problems::Form;

/// What holds for all routes.
const DESCRIPTION: &str = "\
The API of the main listener. `x-access` has the role that a caller needs, and the class that \
limits are kept by. Roles are declared and not enforced yet; each includes the ones before it: public, \
reader, user, operator, admin.

- Errors are problems (RFC 9457). The `type` of a problem never changes. Under `/v2` an error has the form \
of the Open Inference Protocol instead.
- Every response has the header `x-request-id`: that of the request, or a new one.
- A path with GET also answers HEAD.
- Names of numbers end with their unit, names of counters since the start with `_total`, and names of \
points in time (RFC 3339, UTC) with `_at`.";

/// The document of the main and the admin listener.
pub fn document() -> OpenApi {
    let mut paths = Paths::new();
    let mut components = Components::new();
    add_schemas(
        &mut components,
        vec![
            (ProblemBody::name().into(), ProblemBody::schema()),
            (ProtocolBody::name().into(), ProtocolBody::schema()),
        ],
    );
    for route in &routes::table() {
        let operation = operation(route, &mut components);
        paths.add_path_operation(route.path, vec![method(&route.method)], operation);
    }
    for route in &admin::table() {
        let mut operation = operation(route, &mut components);
        operation.tags = Some(vec!["admin".to_owned()]);
        operation.servers = Some(vec![admin_server()]);
        paths.add_path_operation(route.path, vec![method(&route.method)], operation);
    }
    variants::simplify(&mut components.schemas);
    OpenApiBuilder::new()
        .info(info())
        .paths(paths)
        .components(Some(components))
        .build()
}

/// The text of the document.
///
/// # Errors
/// It has no JSON, which is a bug.
pub fn text() -> Result<String, serde_json::Error> {
    let mut text = document().to_pretty_json()?;
    text.push('\n');
    Ok(text)
}

fn info() -> Info {
    InfoBuilder::new()
        .title("Headroom")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build()
}

/// The admin listener has an address of its own.
fn admin_server() -> Server {
    ServerBuilder::new()
        .url("http://127.0.0.1:9090")
        .description(Some("The admin listener, `server.admin_listen`."))
        .build()
}

fn operation(route: &Route, components: &mut Components) -> Operation {
    let mut docs = (route.docs)();
    docs.problems.push(ProblemKind::UnknownHost);
    if !route.method.is_safe() {
        // A page of another origin may have made the browser send it.
        docs.problems.push(ProblemKind::Forbidden);
    }
    let in_path = |variable: &Parameter| route.path.contains(&format!("{{{}}}", variable.name));
    let variables = docs.variables.into_iter().filter(in_path);
    // One extension: those of one object have no fixed order in the document.
    let access = json!({ "role": route.role, "class": route.class });
    let extensions = ExtensionsBuilder::new().add("x-access", access);
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(route)))
        .tag(tag(route.path))
        .summary(Some(docs.summary))
        .description(docs.text)
        .parameters(Some(variables.chain(docs.parameters)))
        .request_body(docs.body)
        .extensions(Some(extensions.build()));
    for (status, answer) in docs.answers {
        operation = operation.response(status.to_string(), answer);
    }
    let form = match is_protocol(route) {
        true => Form::Protocol,
        false => Form::Problem,
    };
    for (status, name, response) in problems::responses(&docs.problems, form) {
        operation = operation.response(status.to_string(), Ref::from_response_name(&name));
        components.responses.insert(name, response.into());
    }
    add_schemas(components, docs.schemas);
    operation.build()
}

fn add_schemas(components: &mut Components, schemas: Vec<(String, RefOr<Schema>)>) {
    components.schemas.extend(schemas);
}

/// The name of a route in the document and in clients that are made from it: its method and path, such as
/// `get_jobs_by_id` for GET `/api/jobs/{id}`.
fn operation_id(route: &Route) -> String {
    let path = route.path.strip_prefix("/api").unwrap_or(route.path);
    let mut id = route.method.as_str().to_lowercase();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let variable = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        id.push('_');
        match variable {
            Some(variable) => id.extend(["by_", variable]),
            None => id.push_str(&segment.replace(['-', '.'], "_")),
        }
    }
    id
}

/// The group of a path: the part of the API that it belongs to.
fn tag(path: &str) -> &str {
    let path = path.strip_prefix("/api").unwrap_or(path);
    match path.split('/').nth(1) {
        None | Some("") => "server",
        Some(part) if part.contains('.') => "server",
        Some(part) => part,
    }
}

fn method(method: &Method) -> HttpMethod {
    match *method {
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::DELETE => HttpMethod::Delete,
        Method::PATCH => HttpMethod::Patch,
        Method::HEAD => HttpMethod::Head,
        Method::OPTIONS => HttpMethod::Options,
        _ => HttpMethod::Get,
    }
}

#[cfg(test)]
mod tests;
