//! What was seen of a model's inputs and outputs in requests that worked. A file declares neither datatypes nor shapes of
//! tensors.

use std::sync::{Mutex, PoisonError};

use headroom_model_protocol::Datatype;

use super::infer::{BoundInput, Tensor};

/// Inputs and outputs at most that are kept, each. Real models have fewer.
const TENSORS_MAX: usize = 256;

/// Bytes of a name that is kept, at most. Callers choose the keys of dicts.
const NAME_MAX: usize = 256;

/// A tensor without its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTensor {
    /// Its name.
    pub name: String,
    /// The datatype that was seen last.
    pub datatype: Datatype,
    /// Its shape; -1 for a size that was not always the same.
    pub shape: Vec<i64>,
}

/// What was seen of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its inputs.
    pub inputs: Vec<ObservedTensor>,
    /// Its outputs.
    pub outputs: Vec<ObservedTensor>,
}

/// Collects what is seen of one model.
#[derive(Debug, Default)]
pub(super) struct Observer(Mutex<Observed>);

impl Observer {
    /// A request has worked.
    pub(super) fn see(&self, inputs: &[BoundInput], outputs: &[Tensor]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for input in inputs {
            match input {
                BoundInput::Tensor(tensor) => see(&mut seen.inputs, tensor),
                BoundInput::Group { tensors, .. } => {
                    tensors.iter().for_each(|it| see(&mut seen.inputs, it));
                }
                BoundInput::Scalar(_) | BoundInput::Default => {}
            }
        }
        // An output that was asked for by its position has another name of its own.
        for output in outputs.iter().filter(|it| !it.name.starts_with("OUTPUT__")) {
            see(&mut seen.outputs, output);
        }
    }

    pub(super) fn seen(&self) -> Observed {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

fn see(all: &mut Vec<ObservedTensor>, tensor: &Tensor) {
    let Some(known) = all.iter_mut().find(|known| known.name == tensor.name) else {
        if all.len() < TENSORS_MAX && tensor.name.len() <= NAME_MAX {
            all.push(ObservedTensor {
                name: tensor.name.clone(),
                datatype: tensor.datatype,
                shape: tensor.shape.clone(),
            });
        }
        return;
    };
    known.datatype = tensor.datatype;
    if known.shape.len() == tensor.shape.len() {
        for (known, size) in known.shape.iter_mut().zip(&tensor.shape) {
            if *known != *size {
                *known = -1;
            }
        }
    } else {
        known.shape = vec![-1; tensor.shape.len()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, datatype: Datatype, shape: &[i64]) -> Tensor {
        Tensor {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
            data: bytes::Bytes::new(),
        }
    }

    #[test]
    fn sizes_that_vary_become_minus_one() {
        let observer = Observer::default();
        let see = |datatype, shape: &[i64]| {
            let input = BoundInput::Tensor(tensor("x", datatype, shape));
            observer.see(&[input, BoundInput::Default], &[]);
            let [x] = &observer.seen().inputs[..] else {
                panic!("one input")
            };
            (x.datatype, x.shape.clone())
        };
        assert_eq!(see(Datatype::Fp32, &[1, 4]), (Datatype::Fp32, vec![1, 4]));
        assert_eq!(see(Datatype::Fp32, &[1, 4]), (Datatype::Fp32, vec![1, 4]));
        assert_eq!(see(Datatype::Fp32, &[2, 4]), (Datatype::Fp32, vec![-1, 4]));
        assert_eq!(see(Datatype::Fp32, &[1, 4]), (Datatype::Fp32, vec![-1, 4]));
        assert_eq!(see(Datatype::Int8, &[1]), (Datatype::Int8, vec![-1]));
        assert_eq!(see(Datatype::Int8, &[7, 7]), (Datatype::Int8, vec![-1, -1]));
    }

    #[test]
    fn the_parts_of_an_argument_are_kept_by_their_names() {
        let observer = Observer::default();
        let long = format!("x.{}", "n".repeat(NAME_MAX));
        let part = |name: &str| tensor(name, Datatype::Int8, &[2]);
        let group = BoundInput::Group {
            name: "x".to_owned(),
            tensors: vec![part("x.0"), part(&long), part("x.key")],
        };
        observer.see(&[group], &[]);
        let inputs = observer.seen().inputs.into_iter();
        let names: Vec<String> = inputs.map(|input| input.name).collect();
        assert_eq!(names, ["x.0", "x.key"]);
    }

    #[test]
    fn outputs_are_kept_by_their_names_in_a_bounded_number() {
        let observer = Observer::default();
        let outputs = |names: &[&str]| {
            let tensors = names.iter().map(|name| tensor(name, Datatype::Fp32, &[]));
            observer.see(&[], &tensors.collect::<Vec<_>>());
            let outputs = observer.seen().outputs.into_iter();
            outputs.map(|output| output.name).collect::<Vec<_>>()
        };
        assert_eq!(outputs(&["b", "OUTPUT__0"]), ["b"]);
        assert_eq!(outputs(&["a", "b"]), ["b", "a"]);
        let many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(outputs(&many).len(), TENSORS_MAX);
    }
}
