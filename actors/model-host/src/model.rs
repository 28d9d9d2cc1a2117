//! One loaded model: loading, warming up, running, resetting.

use std::{ffi::CStr, time::Instant};

use headroom_model_protocol::{
    ArenaReader, ArenaWriter, Device, FailureKind, Infer, Input, InputKind, InputSpec, LoadedModel,
    Scalar, ScalarKind, Start, StartFailureKind, TensorMeta, TensorReader, TensorWriter, WarmUp,
};
use tch::{NoGradGuard, Tensor};

use crate::{
    archive::Archive,
    flatten, memory, process,
    reason::is_out_of_memory,
    signature::Signature,
    tensor,
    torch::{self, Module, TorchError, Value},
};

const FORWARD: &CStr = c"forward";
const RESET_STATES: &CStr = c"reset_states";

/// Warm-up runs at most.
const WARM_UP_RUNS: u32 = 12;

/// The model is warm when this many runs in a row are within [`WARM_UP_SPREAD`] of the fastest.
const WARM_UP_SETTLED: u32 = 3;

/// How much slower than the fastest run a settled one may be.
const WARM_UP_SPREAD: f64 = 1.5;

/// A model in memory, bound to the thread that loaded it.
pub(crate) struct Model {
    module: Module,
    signature: Signature,
    output_names: Vec<String>,
    /// No gradients on this thread for as long as the model lives.
    _no_grad: NoGradGuard,
}

/// Why a model cannot be started.
#[derive(Debug)]
pub(crate) struct StartFailure {
    pub(crate) kind: StartFailureKind,
    pub(crate) message: String,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    /// A failure of this kind, unless its message says that memory was refused.
    pub(crate) fn new(kind: FailureKind, message: impl ToString) -> Self {
        let message = message.to_string();
        let kind = if is_out_of_memory(&message) {
            FailureKind::Memory
        } else {
            kind
        };
        Self { kind, message }
    }
}

/// What a run gave, still in libtorch's memory.
#[derive(Debug)]
pub(crate) struct Outcome {
    outputs: Vec<(String, Tensor)>,
    /// Bytes of all outputs together.
    pub(crate) bytes: u64,
    pub(crate) forward_us: u64,
}

impl Outcome {
    /// Puts the outputs into the reply, and gives libtorch's memory of each back as soon as it is there.
    pub(crate) fn write(
        self,
        replies: &mut ArenaWriter,
    ) -> Result<(Vec<TensorMeta>, Vec<u8>), Failure> {
        let mut frame = TensorWriter::new(replies);
        let outputs = self.outputs.into_iter();
        let metas = outputs
            .map(|(name, tensor)| tensor::write(&mut frame, name, &tensor))
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::new(FailureKind::Model, error))?;
        Ok((metas, frame.into_payload()))
    }
}

impl Model {
    /// Checks, loads and warms up a model, and says what it is like.
    pub(crate) fn start(start: Start) -> Result<(Self, LoadedModel), StartFailure> {
        let begun = Instant::now();
        let archive = Archive::open(&start.path).map_err(|error| {
            let kind = if error.is_unreadable() {
                StartFailureKind::Unreadable
            } else {
                StartFailureKind::BadFile
            };
            failure(kind, process::chain(&error))
        })?;
        check_settings(&start, &archive.signature)?;
        let device = device(start.device)?;
        torch::configure(start.threads, start.optimize)
            .map_err(|error| failure(StartFailureKind::Internal, error.to_string()))?;
        let no_grad = tch::no_grad_guard();
        let module = Module::load(&archive.path(), device)
            .map_err(|error| failure(StartFailureKind::Load, error.to_string()))?;
        let load_us = micros(begun);
        let parameter_bytes = archive.parameter_bytes;
        let signature = archive.signature;
        let model = Self {
            module,
            signature,
            output_names: start.output_names,
            _no_grad: no_grad,
        };
        let warm_up = if start.warm_up {
            model.warm_up(&start.inputs)?
        } else {
            None
        };
        memory::trim();
        let ready = LoadedModel {
            inputs: model.signature.inputs.clone(),
            output_type: model.signature.output_type.clone(),
            parameter_bytes,
            load_us,
            warm_up,
            memory: memory::measure(),
            has_reset_states: model.signature.has_reset_states,
            threads: u32::try_from(tch::get_num_threads()).unwrap_or(0),
        };
        Ok((model, ready))
    }

    /// Runs the model on zeros until its time per run no longer falls, so that no caller pays for its first, slow runs.
    fn warm_up(&self, inputs: &[InputSpec]) -> Result<Option<WarmUp>, StartFailure> {
        if inputs.is_empty() && self.signature.required > 0 {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut report = WarmUp {
            runs: 0,
            total_us: 0,
            last_us: 0,
            error: None,
        };
        let mut best_us = u64::MAX;
        let mut settled = 0;
        while report.runs < WARM_UP_RUNS && settled < WARM_UP_SETTLED {
            let run = Instant::now();
            if let Err(error) = self.warm_up_once(inputs) {
                if inputs.iter().all(is_fixed) {
                    let message = format!("the model fails with inputs as declared: {error}");
                    return Err(failure(StartFailureKind::Settings, message));
                }
                report.error = Some(error.to_string());
                break;
            }
            report.runs += 1;
            report.last_us = micros(run);
            best_us = best_us.min(report.last_us);
            let is_settled = report.last_us as f64 <= best_us as f64 * WARM_UP_SPREAD;
            settled = if is_settled { settled + 1 } else { 0 };
        }
        if self.signature.has_reset_states {
            self.reset_states()
                .map_err(|error| failure(StartFailureKind::Settings, error.message))?;
        }
        report.total_us = micros(begun);
        Ok(Some(report))
    }

    fn warm_up_once(&self, inputs: &[InputSpec]) -> Result<(), TorchError> {
        let arguments: Vec<Value> = inputs.iter().map(placeholder).collect::<Result<_, _>>()?;
        self.module.call(FORWARD, &arguments).map(drop)
    }

    /// Runs the model once.
    pub(crate) fn infer(
        &self,
        infer: &Infer,
        payload: &[u8],
        requests: &ArenaReader,
    ) -> Result<Outcome, Failure> {
        self.check_arguments(&infer.inputs)?;
        let frame = TensorReader::new(payload, requests);
        let arguments: Result<Vec<Value>, Failure> = infer
            .inputs
            .iter()
            .map(|input| argument(frame, input))
            .collect();
        // The inputs are copied, or of no use: their memory need not stay during a long run.
        requests
            .release()
            .map_err(|error| Failure::new(FailureKind::Internal, error))?;
        let arguments = arguments?;
        if infer.reset_before {
            self.reset_states()?;
        }
        let begun = Instant::now();
        let result = self
            .module
            .call(FORWARD, &arguments)
            .map_err(|error| Failure::new(FailureKind::Model, error))?;
        let forward_us = micros(begun);
        drop(arguments);
        let outputs =
            flatten::outputs(&result, &self.output_names, &infer.wanted).map_err(|error| {
                let kind = if error.is_requests_fault() {
                    FailureKind::InvalidInput
                } else {
                    FailureKind::Model
                };
                Failure::new(kind, error)
            })?;
        let sizes = outputs
            .iter()
            .map(|(name, tensor)| tensor::size(name, tensor));
        let bytes = sizes
            .sum::<Result<_, _>>()
            .map_err(|error| Failure::new(FailureKind::Model, error))?;
        Ok(Outcome {
            outputs,
            bytes,
            forward_us,
        })
    }

    /// Makes a stateful model forget.
    pub(crate) fn reset_states(&self) -> Result<(), Failure> {
        if !self.signature.has_reset_states {
            return Err(Failure::new(
                FailureKind::InvalidInput,
                "the model has no method `reset_states`",
            ));
        }
        let reset = self.module.call(RESET_STATES, &[]);
        reset
            .map(drop)
            .map_err(|error| Failure::new(FailureKind::Model, error))
    }

    /// Number and kinds of the arguments, as far as the signature tells: libtorch's own message names C++ types.
    fn check_arguments(&self, inputs: &[Input]) -> Result<(), Failure> {
        let expected = &self.signature.inputs;
        if inputs.len() < self.signature.required || inputs.len() > expected.len() {
            let names: Vec<_> = expected
                .iter()
                .map(|input| format!("{}: {}", input.name, input.type_text))
                .collect();
            let message = format!(
                "the model takes {} inputs ({}), {} given",
                expected.len(),
                names.join(", "),
                inputs.len()
            );
            return Err(Failure::new(FailureKind::InvalidInput, message));
        }
        for (input, expected) in inputs.iter().zip(expected) {
            let (type_text, name) = (expected.type_text.as_str(), &expected.name);
            let fits = match input {
                Input::Tensor(_) => !matches!(type_text, "int" | "float" | "bool"),
                Input::Scalar {
                    value: Scalar::Int(_),
                    ..
                } => !matches!(type_text, "Tensor" | "bool"),
                Input::Scalar {
                    value: Scalar::Float(_),
                    ..
                } => !matches!(type_text, "Tensor" | "bool" | "int"),
                Input::Scalar {
                    value: Scalar::Bool(_),
                    ..
                } => !matches!(type_text, "Tensor" | "float" | "int"),
            };
            if !fits {
                let message = format!("input `{name}` is of type {type_text}, another is given");
                return Err(Failure::new(FailureKind::InvalidInput, message));
            }
        }
        Ok(())
    }
}

/// A failed start of this kind, unless its message says that memory was refused.
fn failure(kind: StartFailureKind, message: String) -> StartFailure {
    let kind = if is_out_of_memory(&message) {
        StartFailureKind::Memory
    } else {
        kind
    };
    StartFailure { kind, message }
}

fn check_settings(start: &Start, signature: &Signature) -> Result<(), StartFailure> {
    let (declared, taken) = (start.inputs.len(), signature.inputs.len());
    if declared > 0 && (declared < signature.required || declared > taken) {
        let message = format!("{declared} inputs are declared, the model takes {taken}");
        return Err(failure(StartFailureKind::Settings, message));
    }
    if start.stateful && !signature.has_reset_states {
        let message = "the model is declared stateful but has no method `reset_states`".to_owned();
        return Err(failure(StartFailureKind::Settings, message));
    }
    Ok(())
}

/// libtorch's number of a device.
fn device(device: Device) -> Result<i32, StartFailure> {
    match device {
        Device::Cpu => Ok(-1),
        // Asked only when a GPU is wanted: the question alone starts CUDA and takes memory.
        Device::Cuda if tch::Cuda::is_available() => Ok(0),
        Device::Cuda => Err(failure(
            StartFailureKind::Device,
            "no CUDA device is there, or this libtorch cannot use it".to_owned(),
        )),
    }
}

/// Whether a declared input leaves nothing to guess.
fn is_fixed(input: &InputSpec) -> bool {
    match &input.kind {
        InputKind::Tensor { shape, .. } => shape.iter().all(|&dimension| dimension >= 0),
        InputKind::Scalar { constant, .. } => constant.is_some(),
    }
}

/// What a warm-up passes: zeros, 1 for sizes that are free, constants as bound, else 1.
fn placeholder(input: &InputSpec) -> Result<Value, TorchError> {
    match &input.kind {
        InputKind::Tensor { datatype, shape } => {
            let shape: Vec<i64> = shape
                .iter()
                .map(|&dimension| if dimension < 0 { 1 } else { dimension })
                .collect();
            Value::tensor(&tensor::zeros(*datatype, &shape)?)
        }
        InputKind::Scalar {
            constant: Some(constant),
            ..
        } => scalar(*constant),
        InputKind::Scalar {
            kind: ScalarKind::Int,
            ..
        } => Value::int(1),
        InputKind::Scalar {
            kind: ScalarKind::Float,
            ..
        } => Value::float(1.0),
        InputKind::Scalar {
            kind: ScalarKind::Bool,
            ..
        } => Value::bool(true),
    }
}

fn argument(frame: TensorReader<'_>, input: &Input) -> Result<Value, Failure> {
    match input {
        Input::Tensor(meta) => {
            let tensor = tensor::read(frame, meta)
                .map_err(|error| Failure::new(FailureKind::InvalidInput, error))?;
            Value::tensor(&tensor).map_err(|error| Failure::new(FailureKind::Model, error))
        }
        Input::Scalar { value, .. } => {
            scalar(*value).map_err(|error| Failure::new(FailureKind::Model, error))
        }
    }
}

fn scalar(scalar: Scalar) -> Result<Value, TorchError> {
    match scalar {
        Scalar::Int(value) => Value::int(value),
        Scalar::Float(value) => Value::float(value),
        Scalar::Bool(value) => Value::bool(value),
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
