//! Makes a schema of its own from each variant of a schema.
//!
//! Why it exists: generators of clients have to invent names for variants without one, such as
//! `PreloadRequestType0`, and some leave out every answer whose variant is composed of other schemas.

use std::mem;

use serde_json::Value;
use utoipa::openapi::{Components, Ref, RefOr, Schema};

/// Moves the variants of all schemas to schemas of their own, and refers to these.
pub(super) fn give_names(components: &mut Components) {
    let mut named = Vec::new();
    for (parent, schema) in &mut components.schemas {
        let RefOr::T(Schema::OneOf(schema)) = schema else {
            continue;
        };
        for variant in &mut schema.items {
            if let Some(name) = name(variant) {
                let name = format!("{parent}_{name}");
                let reference = Ref::from_schema_name(&name).into();
                named.push((name, mem::replace(variant, reference)));
            }
        }
    }
    components.schemas.extend(named);
}

/// The value of the member that tells a variant from the others, or the name of its only required member.
fn name(variant: &RefOr<Schema>) -> Option<String> {
    match variant {
        RefOr::T(Schema::AllOf(all_of)) => all_of.items.iter().rev().find_map(name),
        RefOr::T(Schema::Object(object)) => {
            let tag = object.properties.values().find_map(only_value);
            let member = || match &object.required[..] {
                [member] => Some(member.clone()),
                _ => None,
            };
            tag.or_else(member)
        }
        _ => None,
    }
}

/// The value of a member that can have no other.
fn only_value(member: &RefOr<Schema>) -> Option<String> {
    let RefOr::T(Schema::Object(member)) = member else {
        return None;
    };
    match member.enum_values.as_deref() {
        Some([Value::String(value)]) => Some(value.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use serde_json::json;

    use super::*;

    #[test]
    fn variants_with_a_tag_or_one_required_member_get_names() {
        let tag = |value| json!({ "type": "object", "properties": { "state": { "type": "string", "enum": [value] } } });
        let answer = json!({ "oneOf": [
            { "allOf": [{ "$ref": "#/components/schemas/Silence" }, tag("silent")] },
            tag("answered"),
        ] });
        let request = json!({ "oneOf": [
            { "type": "object", "required": ["names"] },
            { "type": "object", "required": ["a", "b"] },
            { "type": "string" },
        ] });
        let schemas = json!({ "schemas": { "Answer": answer, "Request": request } });
        let mut components: Components = serde_json::from_value(schemas).unwrap_or_default();
        give_names(&mut components);
        let schemas = serde_json::to_value(components).unwrap_or_default();
        let schemas = &schemas["schemas"];
        let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        let answers = [reference("Answer_silent"), reference("Answer_answered")];
        assert_eq!(schemas["Answer"]["oneOf"], json!(answers));
        assert_eq!(schemas["Answer_answered"], answer_of(&tag("answered")));
        assert_eq!(schemas["Request"]["oneOf"][0], reference("Request_names"));
        assert_eq!(
            schemas["Request"]["oneOf"][1]["required"],
            json!(["a", "b"])
        );
        assert_eq!(schemas["Request"]["oneOf"][2], json!({ "type": "string" }));
    }

    /// A schema as the library writes it.
    fn answer_of(schema: &Value) -> Value {
        let schema: Option<Schema> = serde_json::from_value(schema.clone()).ok();
        json!(schema)
    }
}
