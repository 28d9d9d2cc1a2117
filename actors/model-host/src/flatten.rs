//! Converts the result of a model to a flat list of named tensors.
//!
//! - A single value is named `output`.
//! - Items of a tuple or list are named `output_0`, `output_1`, …; nested items `output_0_1`.
//! - Entries of a dict are named by their key; nested entries `key.key`, items of a list in a dict `key_0`.
//! - A single number becomes a tensor without dimensions (int INT64, float FP64, bool BOOL), a list of numbers a tensor
//!   with one dimension. `None` is left out and does not change the names of the others.
//!
//! If all names that a model's settings declare are such natural names, they choose and order the outputs. Otherwise
//! they replace the natural names one by one, and there must be as many as outputs.
//!
//! A caller may also ask for the output `OUTPUT__0`, `OUTPUT__1`, … by its position, and gets it under that name.

use std::collections::HashSet;

use headroom_model_protocol::{Failure, FailureKind};
use tch::Tensor;

use crate::{
    failure::failure,
    torch::{self, Content, Value},
};

/// Outputs of one call at most. More would not fit into a frame's header.
const OUTPUTS_MAX: usize = 4096;

/// Nesting of tuples, lists and dicts at most.
const DEPTH_MAX: usize = 32;

/// A result of the model that has no usable outputs.
fn unusable(why: String) -> Failure {
    failure(FailureKind::Model, why)
}

/// Names all tensors of a result, applies the declared names, then selects the wanted ones in their order.
pub(crate) fn outputs(
    result: &Value,
    declared: &[String],
    wanted: &[String],
) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut outputs = Vec::new();
    flatten(result, String::new(), 0, &mut outputs)?;
    let mut seen = HashSet::new();
    if let Some((name, _)) = outputs.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        return Err(unusable(format!("two outputs have the name `{name}`")));
    }
    choose(declare(outputs, declared)?, wanted)
}

fn flatten(
    value: &Value,
    name: String,
    depth: usize,
    outputs: &mut Vec<(String, Tensor)>,
) -> Result<(), Failure> {
    if depth > DEPTH_MAX {
        return Err(unusable(format!(
            "the model's outputs are nested deeper than {DEPTH_MAX} levels"
        )));
    }
    let tensor = match value.content()? {
        Content::None => return Ok(()),
        Content::Tensor(tensor) => tensor,
        Content::Int(int) => torch::number(int)?,
        Content::String(_) | Content::Other => {
            let name = or_output(name);
            return Err(unusable(format!(
                "output `{name}` is neither a tensor nor a number"
            )));
        }
        Content::Items(items) => {
            let name = or_output(name);
            for (index, item) in items.iter().enumerate() {
                flatten(item, format!("{name}_{index}"), depth + 1, outputs)?;
            }
            return Ok(());
        }
        Content::Entries(entries) => {
            for (key, value) in &entries {
                let key = match key.content()? {
                    Content::String(key) => key,
                    Content::Int(key) => key.to_string(),
                    _ => {
                        let name = or_output(name);
                        return Err(unusable(format!(
                            "output `{name}` is a dict whose keys are neither strings nor ints"
                        )));
                    }
                };
                let key = if name.is_empty() {
                    key
                } else {
                    format!("{name}.{key}")
                };
                flatten(value, key, depth + 1, outputs)?;
            }
            return Ok(());
        }
    };
    if outputs.len() == OUTPUTS_MAX {
        return Err(unusable(format!(
            "the model has more than {OUTPUTS_MAX} outputs"
        )));
    }
    outputs.push((or_output(name), tensor));
    Ok(())
}

fn or_output(name: String) -> String {
    if name.is_empty() {
        "output".to_owned()
    } else {
        name
    }
}

fn declare(
    mut outputs: Vec<(String, Tensor)>,
    declared: &[String],
) -> Result<Vec<(String, Tensor)>, Failure> {
    if declared
        .iter()
        .all(|name| position(&outputs, name).is_some())
    {
        return choose(outputs, declared);
    }
    if declared.len() != outputs.len() {
        return Err(unusable(format!(
            "the settings declare {} outputs, the model has {}: {}",
            declared.len(),
            outputs.len(),
            names(&outputs)
        )));
    }
    for ((name, _), declared) in outputs.iter_mut().zip(declared) {
        name.clone_from(declared);
    }
    Ok(outputs)
}

fn choose(
    outputs: Vec<(String, Tensor)>,
    wanted: &[String],
) -> Result<Vec<(String, Tensor)>, Failure> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let at = |name: &String| position(&outputs, name).or_else(|| by_position(name, outputs.len()));
    let chosen = wanted.iter().map(|name| match at(name) {
        Some(index) => Ok((name.clone(), outputs[index].1.shallow_clone())),
        None => {
            let names = names(&outputs);
            let message = format!("the model has no output `{name}`, it has {names}");
            Err(failure(FailureKind::InvalidInput, message))
        }
    });
    chosen.collect()
}

fn position(outputs: &[(String, Tensor)], name: &str) -> Option<usize> {
    outputs.iter().position(|(output, _)| output == name)
}

/// The position in a name such as `OUTPUT__0`, below `count`.
fn by_position(name: &str, count: usize) -> Option<usize> {
    let index = name.strip_prefix("OUTPUT__")?.parse().ok()?;
    (index < count).then_some(index)
}

fn names(outputs: &[(String, Tensor)]) -> String {
    let names: Vec<_> = outputs
        .iter()
        .take(16)
        .map(|(name, _)| name.as_str())
        .collect();
    names.join(", ")
}
