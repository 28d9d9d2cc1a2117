//! Gives the schemas of types a form that generators of clients understand.
//!
//! Why it exists: for a variant without a name generators invent one, such as `PreloadRequestType0`. And
//! some leave out, with or without a warning, what a type takes from an enum with `flatten`, from a
//! composed schema inside of another one, and each type with an object as default.

use std::collections::BTreeMap;
use std::mem;

use serde_json::Value;
use utoipa::openapi::schema::AllOf;
use utoipa::openapi::{Ref, RefOr, Schema};

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Makes every schema a plain object, plain objects together, or alternatives of such schemas.
pub(super) fn simplify(schemas: &mut Schemas) {
    give_names(schemas);
    for schema in schemas.values_mut() {
        match schema {
            RefOr::T(Schema::AllOf(all_of)) => {
                all_of.items = unnested(mem::take(&mut all_of.items))
            }
            RefOr::T(Schema::Object(object)) => {
                object.properties.values_mut().for_each(omit_default);
            }
            _ => {}
        }
    }
    // It ends, since no type consists of itself and other members.
    while distribute(schemas) {}
}

/// Moves the variants of all schemas to schemas of their own, and refers to these.
fn give_names(schemas: &mut Schemas) {
    let mut named = Vec::new();
    for (parent, schema) in &mut *schemas {
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
    schemas.extend(named);
}

/// The parts of a composed schema, and those of composed schemas among them.
fn unnested(items: Vec<RefOr<Schema>>) -> Vec<RefOr<Schema>> {
    let items = items.into_iter().flat_map(|item| match item {
        RefOr::T(Schema::AllOf(inner)) => unnested(inner.items),
        item => vec![item],
    });
    items.collect()
}

/// Replaces a reference with an object as default by the reference. The default of such a member is that
/// of each member of the object.
fn omit_default(member: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::OneOf(one_of)) = member
        && matches!(one_of.default, Some(Value::Object(_)))
        && let [only @ RefOr::Ref(_)] = &one_of.items[..]
    {
        *member = only.clone();
    }
}

/// Replaces each schema that composes alternatives with other members by alternatives that each have these
/// members. Says whether there was one.
fn distribute(schemas: &mut Schemas) -> bool {
    let mut made = Vec::new();
    for (parent, schema) in &*schemas {
        if let RefOr::T(Schema::AllOf(all_of)) = schema {
            made.extend(distributed(parent, all_of, schemas));
        }
    }
    let is_changed = !made.is_empty();
    schemas.extend(made);
    is_changed
}

/// The alternatives that the schema of this name stands for, and the schema that refers to them. Nothing
/// if no part of it has alternatives.
fn distributed(parent: &str, all_of: &AllOf, schemas: &Schemas) -> Vec<(String, RefOr<Schema>)> {
    let mut parts = all_of.items.iter().enumerate();
    let found = parts.find_map(|(at, part)| {
        let name = referred(part)?;
        match schemas.get(name)? {
            RefOr::T(Schema::OneOf(one_of)) => Some((at, name, one_of)),
            _ => None,
        }
    });
    let Some((at, enumeration, one_of)) = found else {
        return Vec::new();
    };
    let mut made = Vec::new();
    let mut alternatives = one_of.clone();
    alternatives.description.clone_from(&all_of.description);
    for alternative in &mut alternatives.items {
        let mut variant = all_of.clone();
        let Some((name, part)) = referred(alternative).zip(variant.items.get_mut(at)) else {
            return Vec::new(); // An alternative that is no object has no members.
        };
        *part = Ref::from_schema_name(name).into();
        let own = name
            .strip_prefix(enumeration)
            .and_then(|it| it.strip_prefix('_'));
        let name = format!("{parent}_{}", own.unwrap_or(name));
        *alternative = Ref::from_schema_name(&name).into();
        made.push((name, Schema::AllOf(variant).into()));
    }
    made.push((parent.to_owned(), Schema::OneOf(alternatives).into()));
    made
}

/// The name of the schema that a reference refers to.
fn referred(schema: &RefOr<Schema>) -> Option<&str> {
    match schema {
        RefOr::Ref(reference) => reference.ref_location.rsplit('/').next(),
        RefOr::T(_) => None,
    }
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

    fn object(name: &str) -> Value {
        json!({ "type": "object", "required": [name], "properties": { name: { "type": "string" } } })
    }

    fn tag(value: &str) -> Value {
        let state = json!({ "type": "string", "enum": [value] });
        json!({ "type": "object", "required": ["state"], "properties": { "state": state } })
    }

    fn reference(name: &str) -> Value {
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn simplified(schemas: Value) -> Value {
        let mut schemas = serde_json::from_value(schemas).unwrap_or_default();
        simplify(&mut schemas);
        json!(schemas)
    }

    #[test]
    fn variants_with_a_tag_or_one_required_member_get_names() {
        let silent = json!({ "allOf": [reference("Silence"), tag("silent")] });
        let schemas = simplified(json!({
            "Answer": { "oneOf": [silent, tag("answered")] },
            "Request": { "oneOf": [
                object("names"),
                { "type": "object", "required": ["a", "b"] },
                { "type": "string" },
            ] },
        }));
        let answers = [reference("Answer_silent"), reference("Answer_answered")];
        assert_eq!(schemas["Answer"]["oneOf"], json!(answers));
        assert_eq!(schemas["Answer_answered"], tag("answered"));
        let request = &schemas["Request"]["oneOf"];
        assert_eq!(request[0], reference("Request_names"));
        assert_eq!(request[1]["required"], json!(["a", "b"]));
        assert_eq!(request[2], json!({ "type": "string" }));
    }

    #[test]
    fn members_beside_alternatives_become_members_of_each() {
        let notice = json!({ "allOf": [reference("Notice"), tag("notice")] });
        let schemas = simplified(json!({
            "Cause": { "oneOf": [tag("leak"), tag("kill")] },
            "Notice": { "allOf": [reference("Cause"), object("actor")], "description": "A notice." },
            "Kind": { "oneOf": [tag("level"), notice] },
            "Event": { "allOf": [reference("Kind"), object("number")] },
        }));
        let one_of =
            |names: &[&str]| json!(names.iter().map(|it| reference(it)).collect::<Vec<_>>());
        let all_of = |name: &str, other: Value| json!([reference(name), other]);
        assert_eq!(
            schemas["Notice"],
            json!({ "oneOf": one_of(&["Notice_leak", "Notice_kill"]), "description": "A notice." })
        );
        assert_eq!(
            schemas["Notice_leak"]["allOf"],
            all_of("Cause_leak", object("actor"))
        );
        // The alternatives of an alternative.
        assert_eq!(
            schemas["Event"]["oneOf"],
            one_of(&["Event_level", "Event_notice"])
        );
        assert_eq!(
            schemas["Event_level"]["allOf"],
            all_of("Kind_level", object("number"))
        );
        let notices = ["Event_notice_leak", "Event_notice_kill"];
        assert_eq!(schemas["Event_notice"]["oneOf"], one_of(&notices));
        let kill = &schemas["Event_notice_kill"]["allOf"];
        assert_eq!(*kill, all_of("Kind_notice_kill", object("number")));
        let kill = &schemas["Kind_notice_kill"]["allOf"];
        assert_eq!(*kill, all_of("Notice_kill", tag("notice")));
    }

    #[test]
    fn composed_schemas_have_no_composed_parts() {
        let inner = json!({ "allOf": [reference("Figures"), object("a")] });
        let schemas = simplified(json!({ "Outer": { "allOf": [inner, object("b")] } }));
        let parts = json!([reference("Figures"), object("a"), object("b")]);
        assert_eq!(schemas["Outer"]["allOf"], parts);
    }

    #[test]
    fn a_default_that_is_an_object_is_left_out() {
        let member = |default: Value| json!({ "oneOf": [reference("Other")], "default": default });
        let members = json!({ "object": member(json!({})), "text": member(json!("a")) });
        let schemas = simplified(json!({ "It": { "type": "object", "properties": members } }));
        let properties = &schemas["It"]["properties"];
        assert_eq!(properties["object"], reference("Other"));
        assert_eq!(properties["text"], member(json!("a")));
    }
}
