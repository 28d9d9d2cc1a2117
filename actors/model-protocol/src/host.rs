//! The conversation between the server and a host.
//!
//! The server sends [`HostRequest::Start`] first, with three file descriptors: the model file, open for reading, the
//! request arena and the reply arena. The host confines itself before it reads the file, and says how by
//! [`HostReply::Confined`]. It answers [`HostReply::Ready`] or [`HostReply::StartFailed`]. After that, at most one
//! [`HostRequest::Infer`] is in progress at a time. The host answers pings at any time, also while the model runs.
//! It exits when its socket closes, and when the server breaks these rules.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Datatype, DeniedAction, Sandbox, SandboxMode, Scalar, ScalarKind, TensorMeta};

/// Arguments of `forward` at most.
pub const ARGUMENTS_MAX: usize = 1024;

/// Outputs of one call at most. More would not fit into a frame's header.
pub const OUTPUTS_MAX: usize = 4096;

/// The host sends outputs of up to this many bytes together without asking.
pub const OUTPUTS_UNASKED_MAX: u64 = 64 << 10;

/// A request of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostRequest {
    /// Load the model. The first frame, sent once.
    Start(Start),
    /// In place of a start, with the model file as the only descriptor: say what the file declares, without libtorch.
    /// Answered by [`HostReply::Described`] or [`HostReply::StartFailed`]; the process then exits.
    Describe {
        /// How the process confines itself.
        sandbox: SandboxMode,
        /// As in [`HostRequest::BoundMemory`].
        own_max: u64,
    },
    /// Run the model once. Answered by [`HostReply::Output`] or [`HostReply::Failed`].
    Infer(Infer),
    /// The answer to [`HostReply::OutputSize`].
    Outputs {
        /// The inference's id.
        id: u64,
        /// Whether to send the outputs: memory for them is reserved. Otherwise they are dropped, and the host answers
        /// with [`FailureKind::OutputsDropped`].
        send: bool,
    },
    /// Return free memory to the system. Answered by [`HostReply::Trimmed`].
    Trim,
    /// From the next request on, limit the memory that the process allocates for itself. Replaces the earlier limit.
    /// Not answered.
    BoundMemory {
        /// Bytes beyond what the process had when it began. A process that has more already may grow by a little.
        own_max: u64,
    },
    /// Answered at once by [`HostReply::Pong`].
    Ping,
    /// Finish the inference in progress, then exit with code 0.
    Stop,
}

/// Which model to load, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The model's name, shown as the process's name.
    pub model: String,
    /// The TorchScript file. The host reads the descriptor that comes with the frame: it may not open the path.
    pub path: PathBuf,
    /// Threads for one operation, at least 1.
    pub threads: u32,
    /// Whether the graph executor optimises: the first calls are slower and memory grows, later calls may be faster.
    pub optimize: bool,
    /// Whether to run the model before it is reported ready. Needs `inputs`.
    pub warm_up: bool,
    /// The declared inputs in the order of `forward`; empty when none are declared.
    pub inputs: Vec<InputKind>,
    /// The declared output names; empty when none are declared. Either each is the natural name of an output, or
    /// there is one for each output, in order.
    pub output_names: Vec<String>,
    /// Whether calls depend on earlier calls. The model must then have a method `reset_states`.
    pub stateful: bool,
    /// As in [`HostRequest::BoundMemory`]; `None` for no limit.
    pub own_max: Option<u64>,
    /// How the host confines itself.
    pub sandbox: SandboxMode,
}

impl Start {
    /// One thread, no optimisation, no warm-up.
    pub fn new(model: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            path: path.into(),
            threads: 1,
            ..Self::default()
        }
    }
}

/// What a declared input takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputKind {
    /// A tensor.
    Tensor {
        /// Element type.
        datatype: Datatype,
        /// Sizes; -1 for any size.
        shape: Vec<i64>,
    },
    /// A number.
    Scalar {
        /// Its kind.
        kind: ScalarKind,
        /// The value to use when a request gives none.
        constant: Option<Scalar>,
    },
}

/// One run of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infer {
    /// Repeated in the reply.
    pub id: u64,
    /// All arguments of `forward` in its order, constants included.
    pub inputs: Vec<Input>,
    /// The outputs to send back; empty for all.
    pub wanted: Vec<String>,
    /// Whether to call `reset_states` first.
    pub reset_before: bool,
}

/// One argument of `forward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A tensor.
    Tensor(TensorMeta),
    /// A number.
    Scalar(Scalar),
    /// The argument's default, or `None` if it has none.
    Default,
    /// The tensors of a list, a tuple or a dict. Each is named by its place, such as `name.0` or `name.key`.
    Group {
        /// The name of the argument.
        name: String,
        /// In any order.
        tensors: Vec<TensorMeta>,
    },
}

/// A reply of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostReply {
    /// How the process is confined. Sent before it reads the model file, which may take over the process: a second such
    /// reply is a fault.
    Confined(Sandbox),
    /// The model is loaded and warm.
    Ready(LoadedModel),
    /// The model cannot be loaded; the host exits.
    StartFailed(Failure),
    /// What the file declares; the process exits.
    Described(Description),
    /// The sandbox has denied actions. May come at any time.
    Denied {
        /// What they were.
        action: DeniedAction,
        /// How many, since the last such reply.
        count: u64,
    },
    /// The run is done, and its outputs take more than [`OUTPUTS_UNASKED_MAX`] bytes. The host waits for
    /// [`HostRequest::Outputs`] before it allocates memory to send them.
    OutputSize {
        /// The inference's id.
        id: u64,
        /// Bytes of all outputs together.
        bytes: u64,
    },
    /// The model's outputs.
    Output {
        /// The inference's id.
        id: u64,
        /// The outputs, in the model's order or in that of the wanted names.
        outputs: Vec<TensorMeta>,
        /// Microseconds to take over the inputs.
        input_us: u64,
        /// Microseconds in `forward`.
        forward_us: u64,
    },
    /// The inference failed. The host serves the next one.
    Failed {
        /// The inference's id.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// Free memory has been returned to the system.
    Trimmed(Trimmed),
    /// The answer to a ping.
    Pong {
        /// Anonymous bytes now, see [`Memory::anonymous`]: the one measure that is cheap enough for every second.
        anonymous: u64,
    },
}

/// The result of a trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// Anonymous bytes before, see [`Memory::anonymous`].
    pub before: u64,
    /// Anonymous bytes after.
    pub after: u64,
    /// Microseconds that the trim and both measurements took. No inference ran in that time.
    pub took_us: u64,
}

/// A model that has been loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// What the file declares.
    pub description: Description,
    /// Whether the model has a method `reset_states`.
    pub has_reset_states: bool,
    /// Memory after load and warm-up.
    pub memory: Memory,
}

/// What a model file declares of `forward`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The arguments without `self`, in order.
    pub inputs: Vec<SignatureInput>,
    /// The type of the result as TorchScript writes it; empty if it is not declared.
    pub output_type: String,
}

/// What a name says after the name of an argument and a dot: the place of a part of the argument, such as `0` or `key`. `None` if
/// it does not name a part of it.
pub fn part_of<'a>(name: &'a str, argument: &str) -> Option<&'a str> {
    name.strip_prefix(argument)?.strip_prefix('.')
}

impl Description {
    /// The names and types of the outputs, as far as the type of the result says them: a value is `output`, the items of a
    /// tuple are `output_0`, `output_1`, …. Empty where it depends on the call, as for a list or a dict.
    pub fn outputs(&self) -> Vec<(String, &str)> {
        let mut outputs = Vec::new();
        let known = add_outputs("output".to_owned(), &self.output_type, 0, &mut outputs);
        if known { outputs } else { Vec::new() }
    }
}

/// Outputs at most that a type can name, and how deep it can be nested. A file can declare any type.
const DECLARED_OUTPUTS_MAX: usize = 256;
const DECLARED_DEPTH_MAX: usize = 8;

/// Adds the outputs of a result of the type `text`. False where the type does not say them.
fn add_outputs<'a>(
    name: String,
    text: &'a str,
    depth: usize,
    outputs: &mut Vec<(String, &'a str)>,
) -> bool {
    if depth > DECLARED_DEPTH_MAX || outputs.len() == DECLARED_OUTPUTS_MAX {
        return false;
    }
    if text == "Tensor" || ScalarKind::of_type(text).is_some() {
        outputs.push((name, text));
        return true;
    }
    let items = text
        .strip_prefix("Tuple[")
        .and_then(|items| items.strip_suffix(']'));
    let Some(mut rest) = items else {
        return false;
    };
    for index in 0.. {
        let mut open = 0usize;
        let end = rest.find(|character| {
            match character {
                '[' => open += 1,
                ']' => open = open.saturating_sub(1),
                _ => {}
            }
            character == ',' && open == 0
        });
        let (item, after) = end.map_or((rest, ""), |end| (&rest[..end], &rest[end + 1..]));
        if !add_outputs(format!("{name}_{index}"), item.trim(), depth + 1, outputs) {
            return false;
        }
        if end.is_none() {
            break;
        }
        rest = after;
    }
    true
}

/// One argument of `forward`, from the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureInput {
    /// Its name.
    pub name: String,
    /// Its type as TorchScript writes it, for example `Tensor` or `Optional[int]`.
    #[serde(rename = "type")]
    pub type_text: String,
    /// Whether it has a default.
    #[serde(default)]
    pub has_default: bool,
}

impl SignatureInput {
    /// The type as TorchScript writes it, without `Optional`.
    pub fn inner_type(&self) -> &str {
        let optional = self.type_text.strip_prefix("Optional[");
        let inner = optional.and_then(|inner| inner.strip_suffix(']'));
        inner.unwrap_or(&self.type_text)
    }

    /// Whether a call may leave it out: it has a default, or it may be `None`.
    pub fn is_optional(&self) -> bool {
        self.has_default || self.type_text.starts_with("Optional[")
    }
}

/// A process's memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Proportional set size: pages shared with n processes count one n-th.
    pub pss: u64,
    /// Pages that belong to no file, swapped ones included. A leak adds to these; shared files and the exit of other
    /// processes do not change them.
    pub anonymous: u64,
}

/// Why a start or an inference failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
    /// The cause, in one line.
    pub message: String,
}

/// What failed: of a start, the first five and [`FailureKind::OutOfMemory`]; of an inference, the last four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The file does not exist or cannot be read.
    Unreadable,
    /// The file is not a TorchScript module, or is damaged.
    BadFile,
    /// libtorch cannot load it.
    Load,
    /// The model fails with inputs of the declared shapes, or does not fit its settings, or the system does not allow what
    /// the settings require.
    Settings,
    /// The host or the system failed.
    Internal,
    /// The model cannot take these inputs.
    InvalidInput,
    /// The model raised an exception, or gave an output that cannot be sent.
    Model,
    /// The server had no memory for the outputs, and the host dropped them.
    OutputsDropped,
    /// The model needs more memory than the process may have. What an inference allocated is free again.
    OutOfMemory,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_the_result_names_the_outputs() {
        for (text, expected) in [
            ("Tensor", "output:Tensor"),
            ("Tuple[Tensor, int]", "output_0:Tensor output_1:int"),
            (
                "Tuple[Tensor, Tuple[Tensor, Tensor]]",
                "output_0:Tensor output_1_0:Tensor output_1_1:Tensor",
            ),
            ("List[Tensor]", ""),
            ("Tuple[Tensor, List[Tensor]]", ""),
            ("Dict[str, Tensor]", ""),
            ("Tuple[", ""),
            (&"Tuple[".repeat(100_000), ""),
            (&format!("Tuple[{}]", "Tensor, ".repeat(100_000)), ""),
            ("", ""),
        ] {
            let description = Description {
                output_type: text.to_owned(),
                ..Description::default()
            };
            let outputs = description.outputs();
            let shown: Vec<_> = outputs
                .iter()
                .map(|(name, it)| format!("{name}:{it}"))
                .collect();
            assert_eq!(shown.join(" "), expected, "{text}");
        }
    }
}
