//! Converts the result of a model to a flat list of named outputs.
//!
//! - A single value is named `output`.
//! - Items of a tuple or list are named `output_0`, `output_1`, …; nested items `output_0_1`.
//! - Entries of a dict are named by their key; nested entries `key.key`, items of a list in a dict `key_0`.
//! - A single number becomes a tensor without dimensions (int INT64, float FP64, bool BOOL, str BYTES), a list of numbers
//!   or strings a tensor with one dimension. `None` is left out and does not change the names of the others.
//! - What cannot be sent keeps its name, and is an error only if it is among the chosen outputs.
//!
//! If all names that a model's settings declare are such natural names, they choose and order the outputs. Otherwise
//! they replace the natural names one by one, and there must be as many as outputs.
//!
//! A caller may also ask for the output `OUTPUT__0`, `OUTPUT__1`, … by its position, and gets it under that name.

use std::{collections::HashSet, rc::Rc};

use headroom_model_protocol::{Failure, FailureKind, OUTPUTS_MAX, push_element};
use tch::Tensor;

use crate::{
    failure::failure,
    torch::{self, Content, Value},
};

/// Nesting of tuples, lists and dicts at most.
const DEPTH_MAX: usize = 32;

/// One output of a model.
#[derive(Debug)]
pub(crate) enum Output {
    Tensor(Tensor),
    Strings(Rc<Strings>),
    /// It cannot be sent, for this reason.
    Other(String),
}

/// Strings as the elements of a BYTES tensor.
#[derive(Debug)]
pub(crate) struct Strings {
    pub(crate) shape: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
}

impl Strings {
    fn one(text: &[u8]) -> Result<Output, Failure> {
        let mut strings = Self {
            shape: Vec::new(),
            bytes: Vec::new(),
        };
        strings.push(text)?;
        Ok(Output::Strings(Rc::new(strings)))
    }

    /// The items of the list `name`. `None` if they are no strings.
    fn list(items: &[Value], name: &str) -> Result<Option<Output>, Failure> {
        let mut strings = Self {
            shape: vec![items.len() as i64],
            bytes: Vec::new(),
        };
        for item in items {
            let Content::String(text) = item.content()? else {
                return Ok(None);
            };
            let Some(text) = text else {
                return Ok(Some(has_zero_byte(name)));
            };
            strings.push(&text)?;
        }
        Ok((!items.is_empty()).then(|| Output::Strings(Rc::new(strings))))
    }

    fn push(&mut self, text: &[u8]) -> Result<(), Failure> {
        push_element(&mut self.bytes, text).map_err(|why| unusable(why.to_string()))
    }
}

impl Output {
    /// The same output; it shares the memory.
    fn share(&self) -> Self {
        match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.shallow_clone()),
            Self::Strings(strings) => Self::Strings(Rc::clone(strings)),
            Self::Other(why) => Self::Other(why.clone()),
        }
    }
}

/// The output `name`, of which only the beginning is known.
fn has_zero_byte(name: &str) -> Output {
    let name = or_output(name.to_owned());
    Output::Other(format!(
        "output `{name}` has a string with a zero byte, which cannot be sent"
    ))
}

/// A result of the model that has no usable outputs.
fn unusable(why: String) -> Failure {
    failure(FailureKind::Model, why)
}

/// Names all outputs of a result, applies the declared names, then selects the wanted ones in their order.
pub(crate) fn outputs(
    result: &Value,
    declared: &[String],
    wanted: &[String],
) -> Result<Vec<(String, Output)>, Failure> {
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
    outputs: &mut Vec<(String, Output)>,
) -> Result<(), Failure> {
    if depth > DEPTH_MAX {
        return Err(unusable(format!(
            "the model's outputs are nested deeper than {DEPTH_MAX} levels"
        )));
    }
    let output = match value.content()? {
        Content::None => return Ok(()),
        Content::Tensor(tensor) => Output::Tensor(tensor),
        Content::Int(int) => Output::Tensor(torch::number(int)?),
        Content::String(Some(text)) => Strings::one(&text)?,
        Content::String(None) => has_zero_byte(&name),
        Content::Other => Output::Other(format!(
            "output `{}` is neither a tensor nor a number nor a string",
            or_output(name.clone())
        )),
        Content::List(items) => match Strings::list(&items, &name)? {
            Some(strings) => strings,
            None => return flatten_items(&items, name, depth, outputs),
        },
        Content::Tuple(items) => return flatten_items(&items, name, depth, outputs),
        Content::Entries(entries) => {
            for (key, value) in &entries {
                let key = match key.content()? {
                    Content::String(Some(key)) => String::from_utf8_lossy(&key).into_owned(),
                    Content::Int(key) => key.to_string(),
                    _ => {
                        let name = or_output(name);
                        return Err(unusable(format!(
                            "output `{name}` is a dict whose keys are neither strings without zero bytes nor ints"
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
    outputs.push((or_output(name), output));
    Ok(())
}

fn flatten_items(
    items: &[Value],
    name: String,
    depth: usize,
    outputs: &mut Vec<(String, Output)>,
) -> Result<(), Failure> {
    let name = or_output(name);
    for (index, item) in items.iter().enumerate() {
        flatten(item, format!("{name}_{index}"), depth + 1, outputs)?;
    }
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
    mut outputs: Vec<(String, Output)>,
    declared: &[String],
) -> Result<Vec<(String, Output)>, Failure> {
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
    outputs: Vec<(String, Output)>,
    wanted: &[String],
) -> Result<Vec<(String, Output)>, Failure> {
    if wanted.is_empty() {
        return Ok(outputs);
    }
    let at = |name: &String| position(&outputs, name).or_else(|| by_position(name, outputs.len()));
    let chosen = wanted.iter().map(|name| match at(name) {
        Some(index) => Ok((name.clone(), outputs[index].1.share())),
        None => {
            let names = names(&outputs);
            let message = format!("the model has no output `{name}`, it has {names}");
            Err(failure(FailureKind::InvalidInput, message))
        }
    });
    chosen.collect()
}

fn position(outputs: &[(String, Output)], name: &str) -> Option<usize> {
    outputs.iter().position(|(output, _)| output == name)
}

/// The position in a name such as `OUTPUT__0`, below `count`.
fn by_position(name: &str, count: usize) -> Option<usize> {
    let index = name.strip_prefix("OUTPUT__")?.parse().ok()?;
    (index < count).then_some(index)
}

fn names(outputs: &[(String, Output)]) -> String {
    let names: Vec<_> = outputs
        .iter()
        .take(16)
        .map(|(name, _)| name.as_str())
        .collect();
    names.join(", ")
}
