//! The responses of the document for problems. All routes whose problems have the same kinds share one.

use serde_json::{Value, json};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, Schema};

use crate::problem::{CONTENT_TYPE, Problem, ProblemBody, ProblemKind, ProtocolBody};
use utoipa::ToSchema;

/// The form of an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Problem details.
    Problem,
    /// That of the Open Inference Protocol.
    Protocol,
}

/// The responses for problems of `kinds`: one for each status, with the name that it has among the
/// document's components.
pub(super) fn responses(kinds: &[ProblemKind], form: Form) -> Vec<(u16, String, Response)> {
    let mut by_status: Vec<(u16, Vec<ProblemKind>)> = Vec::new();
    let in_order = ProblemKind::ALL.iter().filter(|kind| kinds.contains(kind));
    for kind in in_order.copied() {
        let status = status(kind, form);
        match by_status.iter_mut().find(|(known, _)| *known == status) {
            Some((_, kinds)) => kinds.push(kind),
            None => by_status.push((status, vec![kind])),
        }
    }
    let response = |(status, kinds): (u16, Vec<ProblemKind>)| {
        (status, name(&kinds, form), response(status, &kinds, form))
    };
    by_status.into_iter().map(response).collect()
}

fn status(kind: ProblemKind, form: Form) -> u16 {
    let problem = Problem::new(kind, "");
    let problem = match form {
        Form::Problem => problem,
        Form::Protocol => problem.in_protocol_form(),
    };
    actix_web::ResponseError::status_code(&problem).as_u16()
}

fn name(kinds: &[ProblemKind], form: Form) -> String {
    let slugs: Vec<_> = kinds.iter().map(|kind| kind.slug()).collect();
    let slugs = slugs.join("_or_");
    match form {
        Form::Problem => slugs,
        Form::Protocol => format!("v2_{slugs}"),
    }
}

fn response(status: u16, kinds: &[ProblemKind], form: Form) -> Response {
    let titles: Vec<_> = kinds.iter().map(|kind| kind.title()).collect();
    let (media_type, schema, example) = match form {
        Form::Problem => {
            let example = Problem::new(kinds[0], "What is wrong with this request.").to_json();
            (CONTENT_TYPE, problem_schema(status, kinds), example)
        }
        Form::Protocol => {
            let schema = Ref::from_schema_name(ProtocolBody::name());
            let schema = AllOfBuilder::new().item(schema).into();
            ("application/json", schema, json!({ "error": titles[0] }))
        }
    };
    let content = ContentBuilder::new()
        .schema(Some(schema))
        .example(Some(example));
    let mut response = ResponseBuilder::new()
        .description(format!("{}.", titles.join(". ")))
        .content(media_type, content.build());
    if status == 503 {
        let seconds = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        let header = HeaderBuilder::new()
            .schema(seconds)
            .description(Some("Seconds after which the request can succeed."));
        response = response.header("retry-after", header.build());
    }
    response.build()
}

/// A problem with one of the types of `kinds`.
fn problem_schema(status: u16, kinds: &[ProblemKind]) -> Schema {
    let types: Vec<Value> = kinds.iter().map(|kind| kind.type_uri().into()).collect();
    let types = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(types));
    let status = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .enum_values(Some([status]));
    let narrowed = ObjectBuilder::new()
        .property("type", types)
        .property("status", status);
    AllOfBuilder::new()
        .item(Ref::from_schema_name(ProblemBody::name()))
        .item(narrowed)
        .into()
}
