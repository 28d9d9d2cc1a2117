//! One loaded model: load, warm-up, inference, reset.

use std::{ffi::CStr, fs::File, time::Instant};

use headroom_model_protocol::arena::ARENA_MAX;
use headroom_model_protocol::{
    Arena, Datatype, Failure, FailureKind, HostReply, Infer, Input, InputKind, LoadedModel, Scalar,
    SignatureInput, Start, TensorReader, TensorWriter, encode_frame,
};
use tch::NoGradGuard;

use crate::{
    archive::{Archive, Extent},
    arguments::{argument, placeholder},
    default::{self, Default},
    failure::failure,
    flatten::{self, Output},
    memory, process,
    signature::Signature,
    tensor,
    torch::{self, Module, TorchError, Value},
};

const FORWARD: &CStr = c"forward";
const RESET_STATES: &CStr = c"reset_states";

/// Warm-up runs at most.
const WARM_UP_RUNS: u32 = 12;

/// The model is warm when this many runs in a row are nearly as fast as the fastest.
const WARM_RUNS: u32 = 3;

/// Times that a run may take of the fastest run's time to be nearly as fast.
const WARM_UP_SPREAD: f64 = 1.5;

/// A model in memory, bound to the thread that loaded it.
pub(crate) struct Model {
    module: Module,
    pub(crate) signature: Signature,
    /// Bytes of all tensors in the file: parameters, buffers and constants.
    pub(crate) parameter_bytes: u64,
    /// Microseconds that the check and the load took.
    pub(crate) load_us: u64,
    output_names: Vec<String>,
    /// Disables gradients on this thread while the model exists.
    _no_grad: NoGradGuard,
}

/// The outputs of one run, in libtorch's memory.
#[derive(Debug)]
pub(crate) struct ModelOutputs {
    outputs: Vec<(String, Output)>,
    /// Bytes of all outputs together.
    pub(crate) bytes: u64,
    input_us: u64,
    forward_us: u64,
}

impl ModelOutputs {
    /// Encodes the outputs as the reply to inference `id`, and frees libtorch's memory of each after that.
    pub(crate) fn encode(self, id: u64, replies: &Arena) -> Result<Vec<u8>, Failure> {
        let mut frame = TensorWriter::new(replies);
        let outputs = self.outputs.into_iter();
        let outputs = outputs.map(|(name, output)| tensor::write(&mut frame, name, &output));
        let reply = HostReply::Output {
            id,
            outputs: outputs.collect::<Result<_, _>>()?,
            input_us: self.input_us,
            forward_us: self.forward_us,
        };
        // Fails for thousands of outputs with long names: the model decides the size of this reply alone.
        encode_frame(&reply, &frame.into_payload()).map_err(|error| {
            let message = format!("the outputs cannot be sent: {error}");
            failure(FailureKind::Model, message)
        })
    }
}

impl Model {
    /// Checks, loads and warms up a model.
    pub(crate) fn load(start: Start, file: File) -> Result<Self, Failure> {
        let begun = Instant::now();
        let archive = Archive::read(file, Extent::All)?;
        check_settings(&start, &archive.signature)?;
        torch::configure(start.threads, start.optimize)
            .map_err(|error| failure(FailureKind::Internal, error))?;
        let no_grad = tch::no_grad_guard();
        let module =
            Module::load(&archive.path()).map_err(|error| failure(FailureKind::Load, error))?;
        let model = Self {
            module,
            load_us: micros(begun),
            parameter_bytes: archive.parameter_bytes,
            signature: archive.signature,
            output_names: start.output_names,
            _no_grad: no_grad,
        };
        if start.warm_up {
            model.warm_up(&start.inputs)?;
        }
        memory::trim();
        Ok(model)
    }

    /// What the server must know of the model.
    pub(crate) fn describe(&self) -> LoadedModel {
        LoadedModel {
            description: self.signature.describe(),
            has_reset_states: self.signature.has_reset_states,
            memory: memory::measure(),
        }
    }

    /// Runs the model on zeros until its time per run no longer falls, because the first runs are slow.
    fn warm_up(&self, inputs: &[InputKind]) -> Result<(), Failure> {
        if inputs.is_empty() && self.signature.required > 0 {
            return Ok(());
        }
        let mut best_us = u64::MAX;
        let mut warm_runs = 0;
        for _ in 0..WARM_UP_RUNS {
            let run = Instant::now();
            if let Err(error) = self.warm_up_once(inputs) {
                if inputs.iter().all(is_fixed) {
                    let message = format!("the model fails with inputs as declared: {error}");
                    return Err(failure(FailureKind::Settings, message));
                }
                process::log(&format!("the warm-up failed with size 1 for -1: {error}"));
                break;
            }
            let run_us = micros(run);
            best_us = best_us.min(run_us);
            let is_warm = run_us as f64 <= best_us as f64 * WARM_UP_SPREAD;
            warm_runs = if is_warm { warm_runs + 1 } else { 0 };
            if warm_runs == WARM_RUNS {
                break;
            }
        }
        if self.signature.has_reset_states {
            self.reset_states()
                .map_err(|error| failure(FailureKind::Settings, error.message))?;
        }
        Ok(())
    }

    fn warm_up_once(&self, inputs: &[InputKind]) -> Result<(), TorchError> {
        let types = self.signature.inputs.iter();
        let types = types.map(|input| input.type_text.as_str());
        let arguments = inputs.iter().zip(types);
        let arguments = arguments.map(|(input, type_text)| placeholder(input, type_text));
        let arguments: Vec<Value> = arguments.collect::<Result<_, _>>()?;
        self.module.call(FORWARD, &arguments).map(drop)
    }

    /// Runs the model once.
    pub(crate) fn infer(
        &self,
        infer: &Infer,
        payload: &[u8],
        requests: &Arena,
    ) -> Result<ModelOutputs, Failure> {
        let begun = Instant::now();
        self.check_arguments(&infer.inputs)?;
        let frame = TensorReader::new(payload, requests);
        let arguments = self.arguments(frame, &infer.inputs);
        // The inputs are copied, so that their memory can be freed before a long run.
        if let Err(error) = requests.release() {
            process::log(&format!("cannot free the request arena: {error}"));
        }
        let arguments = arguments?;
        if infer.reset_before {
            self.reset_states()?;
        }
        let input_us = micros(begun);
        let begun = Instant::now();
        let result = self.module.call(FORWARD, &arguments)?;
        let forward_us = micros(begun);
        drop(arguments);
        let outputs = flatten::outputs(&result, &self.output_names, &infer.wanted)?;
        let mut bytes = 0;
        for (name, output) in &outputs {
            bytes += tensor::measure(name, output)?;
        }
        if bytes > ARENA_MAX {
            let message =
                format!("the outputs have {bytes} bytes together, at most {ARENA_MAX} can be sent");
            return Err(failure(FailureKind::Model, message));
        }
        Ok(ModelOutputs {
            outputs,
            bytes,
            input_us,
            forward_us,
        })
    }

    /// Resets the state of a stateful model.
    fn reset_states(&self) -> Result<(), Failure> {
        if !self.signature.has_reset_states {
            let message = "the model has no method `reset_states`";
            return Err(failure(FailureKind::InvalidInput, message));
        }
        self.module.call(RESET_STATES, &[])?;
        Ok(())
    }

    /// The arguments of `forward`, up to the last one that is given or has no default: libtorch adds those that follow.
    fn arguments(&self, frame: TensorReader<'_>, inputs: &[Input]) -> Result<Vec<Value>, Failure> {
        let given = inputs.iter().rposition(|input| *input != Input::Default);
        let count = given
            .map_or(0, |last| last + 1)
            .max(self.signature.required);
        let inputs = inputs.iter().take(count).enumerate();
        let arguments = inputs.map(|(index, input)| match input {
            Input::Default => self.default(index),
            given => argument(frame, given, &self.signature.inputs[index].type_text),
        });
        arguments.collect()
    }

    /// The default of the input at `index`.
    fn default(&self, index: usize) -> Result<Value, Failure> {
        let input = &self.signature.inputs[index];
        let SignatureInput {
            name, type_text, ..
        } = input;
        let default = match &self.signature.defaults[index] {
            Some(text) => default::read(text, type_text),
            None if input.is_optional() => Some(Default::None),
            None => {
                let message = format!("input `{name}` is missing");
                return Err(failure(FailureKind::InvalidInput, message));
            }
        };
        let default = default.ok_or_else(|| {
            let message =
                format!("input `{name}` can be left out only together with all inputs after it");
            failure(FailureKind::InvalidInput, message)
        })?;
        Ok(Value::default(&default)?)
    }

    /// Checks number and kinds of the arguments. libtorch's own messages name C++ types.
    fn check_arguments(&self, inputs: &[Input]) -> Result<(), Failure> {
        let expected = &self.signature.inputs;
        if inputs.len() < self.signature.required || inputs.len() > expected.len() {
            let names: Vec<_> = expected
                .iter()
                .map(|input| format!("{}: {}", input.name, input.type_text))
                .collect();
            let message = format!(
                "the model takes {} inputs ({}), the request has {}",
                expected.len(),
                names.join(", "),
                inputs.len()
            );
            return Err(failure(FailureKind::InvalidInput, message));
        }
        for (input, expected) in inputs.iter().zip(expected) {
            let (type_text, name) = (expected.type_text.as_str(), &expected.name);
            let found = match input {
                // `argument` checks that the model takes strings here.
                Input::Tensor(meta) if meta.datatype == Datatype::Bytes => continue,
                Input::Tensor(_) => "Tensor",
                Input::Group { .. } => "parts of it",
                Input::Scalar(Scalar::Int(_)) => "int",
                Input::Scalar(Scalar::Float(_)) => "float",
                Input::Scalar(Scalar::Bool(_)) => "bool",
                Input::Default => continue,
            };
            // libtorch checks all other types, such as `Optional[int]`.
            let is_plain = matches!(
                type_text,
                "Tensor" | "int" | "float" | "bool" | "str" | "List[str]"
            );
            if is_plain && found != type_text && (found, type_text) != ("int", "float") {
                let message =
                    format!("input `{name}` has type {type_text}, the request has {found}");
                return Err(failure(FailureKind::InvalidInput, message));
            }
        }
        Ok(())
    }
}

fn check_settings(start: &Start, signature: &Signature) -> Result<(), Failure> {
    let (declared, taken) = (start.inputs.len(), signature.inputs.len());
    if declared > 0 && (declared < signature.required || declared > taken) {
        let message = format!("the settings declare {declared} inputs, the model takes {taken}");
        return Err(failure(FailureKind::Settings, message));
    }
    if start.stateful && !signature.has_reset_states {
        let message = "the settings say `stateful`, but the model has no method `reset_states`";
        return Err(failure(FailureKind::Settings, message));
    }
    Ok(())
}

/// Whether the declaration fixes all sizes or the value.
fn is_fixed(input: &InputKind) -> bool {
    match input {
        InputKind::Tensor { shape, .. } => shape.iter().all(|&dimension| dimension >= 0),
        InputKind::Scalar { constant, .. } => constant.is_some(),
    }
}

pub(crate) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
