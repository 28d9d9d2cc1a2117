//! What the document says of one route.

use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::link::Link;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Required};
use utoipa::{IntoParams, ToSchema};

use crate::problem::ProblemKind;

/// The media type of most bodies.
const JSON: &str = "application/json";

/// What the document says of one route. Method, path, role and class come from the route table.
pub struct Docs {
    pub(super) summary: &'static str,
    pub(super) text: Option<&'static str>,
    /// The variables of the path.
    pub(super) variables: Vec<Parameter>,
    /// The parameters in the query and the headers.
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) answers: Vec<(u16, Response)>,
    pub(super) problems: Vec<ProblemKind>,
    /// The schemas that the others refer to.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

impl Docs {
    /// Says what the route does, in a line. Every route can have a bug and pass its deadline.
    pub fn new(summary: &'static str) -> Self {
        Self {
            summary,
            text: None,
            variables: Vec::new(),
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: vec![ProblemKind::Internal, ProblemKind::DeadlineExceeded],
            schemas: Vec::new(),
        }
    }

    /// Says more than the line.
    #[must_use]
    pub fn text(mut self, text: &'static str) -> Self {
        self.text = Some(text);
        self
    }

    /// A variable of the path. If the path of a route lacks it, it is left out, so that routes can share
    /// their documentation.
    #[must_use]
    pub fn variable(mut self, name: &str, text: &str, example: &str) -> Self {
        let variable = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(text))
            .schema(Some(text_schema()))
            .example(Some(example.into()));
        self.variables.push(variable.build());
        self.problems(&[ProblemKind::NotFound])
    }

    /// The parameters of the query. An unknown or malformed one is refused.
    #[must_use]
    pub fn query<Q: IntoParams>(mut self) -> Self {
        let mut parameters = Q::into_params(|| Some(ParameterIn::Query));
        parameters.iter_mut().for_each(not_null);
        self.parameters.extend(parameters);
        self.problems(&[ProblemKind::MalformedRequest])
    }

    /// A header that the route reads.
    #[must_use]
    pub fn header(mut self, name: &str, text: &str) -> Self {
        let header = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(text))
            .schema(Some(text_schema()));
        self.parameters.push(header.build());
        self
    }

    /// The JSON body of the request, which `read_body` and `read_json` read.
    #[must_use]
    pub fn body<T: ToSchema>(self, example: Value) -> Self {
        self.any_body::<T>(example, Required::True)
    }

    /// Likewise, for a body that may be left out.
    #[must_use]
    pub fn optional_body<T: ToSchema>(self, example: Value) -> Self {
        self.any_body::<T>(example, Required::False)
    }

    /// The body of the request is a form with files.
    #[must_use]
    pub fn form<T: ToSchema>(mut self) -> Self {
        let content = ContentBuilder::new().schema(Some(self.schema::<T>()));
        self.body_of("multipart/form-data", content, Required::True)
    }

    /// The body of the request is bytes of a media type, and may be left out.
    #[must_use]
    pub fn bytes_body(mut self, media_type: &str) -> Self {
        let content = ContentBuilder::new().schema(Some(text_schema()));
        let body = RequestBodyBuilder::new().content(media_type, content.build());
        self.body = Some(body.required(Some(Required::False)).build());
        self.problems(&[
            ProblemKind::MalformedRequest,
            ProblemKind::RequestTimeout,
            ProblemKind::PayloadTooLarge,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::InvalidInput,
        ])
    }

    fn any_body<T: ToSchema>(mut self, example: Value, required: Required) -> Self {
        let content = ContentBuilder::new().schema(Some(self.schema::<T>()));
        self.body_of(JSON, content.example(Some(example)), required)
            .problems(&[ProblemKind::Overloaded, ProblemKind::InsufficientMemory])
    }

    /// A body, which can be malformed, late, too large, of another type, or wrong.
    fn body_of(mut self, media_type: &str, content: ContentBuilder, required: Required) -> Self {
        let body = RequestBodyBuilder::new().content(media_type, content.build());
        self.body = Some(body.required(Some(required)).build());
        self.problems(&[
            ProblemKind::MalformedRequest,
            ProblemKind::RequestTimeout,
            ProblemKind::PayloadTooLarge,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::InvalidInput,
        ])
    }

    /// A response with JSON.
    #[must_use]
    pub fn answer<T: ToSchema>(mut self, status: u16, text: &str) -> Self {
        let content = ContentBuilder::new().schema(Some(self.schema::<T>()));
        let answer = ResponseBuilder::new().description(text);
        let answer = answer.content(JSON, content.build());
        self.answers.push((status, answer.build()));
        self
    }

    /// A response of another media type.
    #[must_use]
    pub fn answer_of(mut self, status: u16, media_type: &str, text: &str) -> Self {
        let content = ContentBuilder::new().schema(Some(text_schema()));
        let answer = ResponseBuilder::new().description(text);
        let answer = answer.content(media_type, content.build());
        self.answers.push((status, answer.build()));
        self
    }

    /// Another media type of the response that was added last.
    #[must_use]
    pub fn or_of(mut self, media_type: &str) -> Self {
        if let Some((_, answer)) = self.answers.last_mut() {
            let content = ContentBuilder::new().schema(Some(text_schema())).build();
            answer.content.insert(media_type.to_owned(), content);
        }
        self
    }

    /// A response with server-sent events. The schema is that of one event.
    #[must_use]
    pub fn events(mut self, status: u16, text: &str) -> Self {
        let event = ObjectBuilder::new()
            .property("id", text_schema())
            .property("data", text_schema())
            .required("data");
        let content = ContentBuilder::new().schema(Some(event));
        let answer = ResponseBuilder::new().description(text);
        let answer = answer.content("text/event-stream", content.build());
        self.answers.push((status, answer.build()));
        self
    }

    /// A response without a body.
    #[must_use]
    pub fn empty_answer(mut self, status: u16, text: &str) -> Self {
        let answer = ResponseBuilder::new().description(text);
        self.answers.push((status, answer.build()));
        self
    }

    /// An example of the response that was added last.
    #[must_use]
    pub fn example(mut self, example: Value) -> Self {
        let last = self.answers.last_mut();
        let content = last.and_then(|(_, answer)| answer.content.values_mut().next());
        if let Some(content) = content {
            content.example = Some(example);
        }
        self
    }

    /// Says that `operation` can be called with a value of the response that was added last, such as
    /// `$response.body#/id`, as its variable `variable`.
    #[must_use]
    pub fn link(mut self, operation: &str, variable: &str, value: &str) -> Self {
        if let Some((_, answer)) = self.answers.last_mut() {
            let mut link = Link::builder().parameter(variable, value).build();
            // utoipa 5 writes its field for this as `operation_id`, which is not a member of links.
            let mut members = Extensions::default();
            members.insert("operationId".into(), operation.into());
            link.extensions = Some(members);
            answer.links.insert(operation.into(), link.into());
        }
        self
    }

    /// The route calls actors, which can be busy, restarting or stopped.
    #[must_use]
    pub fn calls_actors(self) -> Self {
        self.problems(&[ProblemKind::Overloaded, ProblemKind::Unavailable])
    }

    /// Further problems that the route can have.
    #[must_use]
    pub fn problems(mut self, kinds: &[ProblemKind]) -> Self {
        self.problems.extend_from_slice(kinds);
        self
    }

    /// A reference to the schema of `T`, which becomes part of the document.
    fn schema<T: ToSchema>(&mut self) -> Ref {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name())
    }
}

/// A parameter that may be missing is an `Option`, which would allow `null`. A query has no `null`.
fn not_null(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
        && let SchemaType::Array(types) = &schema.schema_type
    {
        let types = types.iter().filter(|kind| **kind != Type::Null);
        schema.schema_type = types.cloned().collect();
    }
}

fn text_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .into()
}
