//! Binds a request's tensors to the arguments of a model's `forward`.
//!
//! The arguments come from the model's settings, or from the signature in its file. Everything that
//! can be checked without the model is checked here, so that no wrong input reaches a process. Each
//! error says what was expected.

use headroom_model_protocol::frame::HEADER_MAX;
use headroom_model_protocol::{
    Datatype, InputKind, Scalar, ScalarKind, SignatureInput, check_length, part_of,
};

use super::infer::{BoundInput, InferError, InferRequest, Tensor};
use super::settings::ModelSettings;

/// The arguments of `forward`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InputPlan {
    arguments: Vec<Argument>,
    /// Rows of an input at most; 0 for any number.
    max_batch: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Argument {
    name: String,
    /// `None` for a tensor of any datatype and shape: the file does not declare these.
    kind: Option<InputKind>,
    /// Whether `forward` has a default for it, or takes `None`.
    is_optional: bool,
}

/// Bytes of the names and shapes of a request at most. They are in the header of a frame, beside the model's own names, and
/// those of its outputs are in the header of the answer.
const NAMES_MAX: usize = HEADER_MAX / 4;

/// Bytes of a size, and of what else the header says of a tensor, at most.
const SIZE_BYTES: usize = 10;
const TENSOR_BYTES: usize = 32;

/// How users of other servers name the arguments of `forward`: by their positions.
const POSITIONAL: &str = "INPUT__";

impl InputPlan {
    /// From the settings if they declare the inputs, else from the file's signature.
    pub(super) fn new(settings: &ModelSettings, signature: &[SignatureInput]) -> Self {
        let declared = settings.inputs.iter().enumerate();
        let mut arguments: Vec<Argument> = declared
            .map(|(index, input)| Argument {
                name: input.name.clone(),
                kind: Some(input.kind()),
                is_optional: signature
                    .get(index)
                    .is_some_and(SignatureInput::is_optional),
            })
            .collect();
        if arguments.is_empty() {
            arguments = signature.iter().map(Argument::from_signature).collect();
        }
        Self {
            arguments,
            max_batch: settings.max_batch,
        }
    }

    /// Puts `tensors` in the order of the arguments.
    pub(super) fn bind(&self, mut tensors: Vec<Tensor>) -> Result<Vec<BoundInput>, InferError> {
        for tensor in &mut tensors {
            if let Some(argument) = self.argument_at(&tensor.name) {
                tensor.name.clone_from(&argument.name);
            }
        }
        for (index, tensor) in tensors.iter().enumerate() {
            let earlier = &tensors[..index];
            if earlier.iter().any(|other| other.name == tensor.name) {
                return refuse(format!("the request has input {:?} twice", tensor.name));
            }
            check(tensor)?;
        }
        if let Some(unknown) = tensors.iter().find(|tensor| !self.knows(&tensor.name)) {
            return self.refuse_unknown(&unknown.name);
        }
        let mut bound = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            let is_for = |tensor: &Tensor| tensor.name == argument.name;
            let tensor = tensors.iter().position(is_for);
            let tensor = tensor.map(|index| tensors.swap_remove(index));
            let group = match tensor {
                None if argument.kind.is_none() => take_group(&mut tensors, &argument.name),
                _ => None,
            };
            bound.push(match group {
                Some(tensors) => {
                    tensors.iter().try_for_each(|part| self.check_rows(part))?;
                    let name = argument.name.clone();
                    BoundInput::Group { name, tensors }
                }
                None => self.bind_one(argument, tensor)?,
            });
        }
        match tensors.first() {
            Some(unknown) => self.refuse_unknown(&unknown.name),
            None => Ok(bound),
        }
    }

    /// Whether it is the name of an argument or of a part of one.
    fn knows(&self, name: &str) -> bool {
        let mut names = self.arguments.iter().map(|argument| &argument.name);
        names.any(|argument| name == argument || part_of(name, argument).is_some())
    }

    fn refuse_unknown<T>(&self, name: &str) -> Result<T, InferError> {
        let takes = self.describe();
        refuse(format!("the model has no input {name:?}; it takes {takes}"))
    }

    /// The argument that a name such as `INPUT__0` means. `None` for the name of an argument.
    fn argument_at(&self, name: &str) -> Option<&Argument> {
        let index: usize = name.strip_prefix(POSITIONAL)?.parse().ok()?;
        let is_name = self.arguments.iter().any(|argument| argument.name == name);
        self.arguments.get(index).filter(|_| !is_name)
    }

    fn bind_one(
        &self,
        argument: &Argument,
        tensor: Option<Tensor>,
    ) -> Result<BoundInput, InferError> {
        let name = &argument.name;
        if let Some(InputKind::Scalar { kind, constant }) = &argument.kind {
            if let Some(tensor) = &tensor {
                return Ok(BoundInput::Scalar(scalar_of(tensor, *kind)?));
            }
            if let Some(constant) = constant {
                return Ok(BoundInput::Scalar(*constant));
            }
        }
        let Some(tensor) = tensor else {
            if argument.is_optional {
                return Ok(BoundInput::Default);
            }
            return refuse(format!(
                "input {name:?} is missing; the model takes {}",
                self.describe()
            ));
        };
        if let Some(InputKind::Tensor { datatype, shape }) = &argument.kind {
            if tensor.datatype != *datatype {
                return refuse(format!(
                    "input {name:?} has datatype {}, the model takes {datatype}",
                    tensor.datatype
                ));
            }
            if !shape_fits(&tensor.shape, shape) {
                return refuse(format!(
                    "input {name:?} has shape {:?}, the model takes {shape:?} (-1 is any size)",
                    tensor.shape
                ));
            }
        }
        self.check_rows(&tensor)?;
        Ok(BoundInput::Tensor(tensor))
    }

    fn check_rows(&self, tensor: &Tensor) -> Result<(), InferError> {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        if self.max_batch > 0 && rows > i64::from(self.max_batch) {
            return refuse(format!(
                "input {:?} has {rows} rows, the model takes at most {} in one request",
                tensor.name, self.max_batch
            ));
        }
        Ok(())
    }

    /// The arguments, for error messages.
    fn describe(&self) -> String {
        if self.arguments.is_empty() {
            return "no inputs".to_owned();
        }
        let arguments: Vec<String> = self.arguments.iter().map(Argument::describe).collect();
        arguments.join(", ")
    }
}

/// Refuses a request whose names and shapes do not fit into the header of a frame.
pub(super) fn check_names(request: &InferRequest) -> Result<(), InferError> {
    let inputs = request.inputs.iter();
    let inputs = inputs.map(|it| it.name.len() + it.shape.len() * SIZE_BYTES);
    let wanted = request.wanted.iter().map(String::len);
    let bytes: usize = inputs.chain(wanted).map(|it| it + TENSOR_BYTES).sum();
    if bytes <= NAMES_MAX {
        return Ok(());
    }
    refuse(format!(
        "the names and shapes of the request need {bytes} bytes, at most {NAMES_MAX} are allowed"
    ))
}

impl Argument {
    fn from_signature(input: &SignatureInput) -> Self {
        let kind = ScalarKind::of_type(input.inner_type());
        let scalar = |kind| InputKind::Scalar {
            kind,
            constant: None,
        };
        Self {
            name: input.name.clone(),
            kind: kind.map(scalar),
            is_optional: input.is_optional(),
        }
    }

    fn describe(&self) -> String {
        let name = &self.name;
        match &self.kind {
            Some(InputKind::Tensor { datatype, shape }) => {
                format!("{name} ({datatype} {shape:?}{})", self.optional())
            }
            None => format!("{name} (a tensor{})", self.optional()),
            Some(InputKind::Scalar { kind, constant }) => {
                let optional = match constant {
                    Some(_) => ", optional",
                    None => self.optional(),
                };
                format!("{name} (one {} value{optional})", kind.type_name())
            }
        }
    }

    fn optional(&self) -> &'static str {
        if self.is_optional { ", optional" } else { "" }
    }
}

fn refuse<T>(why: String) -> Result<T, InferError> {
    Err(InferError::InvalidInput(why))
}

/// Takes the tensors that are parts of the argument `name`, if there are any.
fn take_group(tensors: &mut Vec<Tensor>, name: &str) -> Option<Vec<Tensor>> {
    let is_part = |tensor: &mut Tensor| part_of(&tensor.name, name).is_some();
    let parts: Vec<Tensor> = tensors.extract_if(.., is_part).collect();
    (!parts.is_empty()).then_some(parts)
}

/// Compares the length with datatype and shape. The process checks the elements of BYTES.
fn check(tensor: &Tensor) -> Result<(), InferError> {
    check_length(tensor.datatype, &tensor.shape, tensor.data.len() as u64)
        .or_else(|error| refuse(format!("input {:?}: {error}", tensor.name)))
}

fn shape_fits(shape: &[i64], expected: &[i64]) -> bool {
    let mut pairs = shape.iter().zip(expected);
    shape.len() == expected.len()
        && pairs.all(|(size, expected)| *expected == -1 || size == expected)
}

/// The single element of `tensor`, as the kind of number that the model takes.
fn scalar_of(tensor: &Tensor, kind: ScalarKind) -> Result<Scalar, InferError> {
    let name = &tensor.name;
    if tensor.shape.iter().product::<i64>() != 1 {
        return refuse(format!(
            "input {name:?} has shape {:?}, the model takes one value",
            tensor.shape
        ));
    }
    let datatype: Datatype = tensor.datatype;
    match Scalar::of_element(datatype, &tensor.data, kind) {
        Some(scalar) => Ok(scalar),
        None => refuse(format!(
            "input {name:?} has datatype {datatype}, the model takes one {} value",
            kind.type_name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor {
            name: name.into(),
            datatype,
            shape: shape.into(),
            data: Bytes::from(data),
        }
    }

    fn vad() -> InputPlan {
        let settings = "max_batch = 2\n\
            [[inputs]]\nname = \"input\"\ndatatype = \"FP32\"\nshape = [-1, 4]\n\
            [[inputs]]\nname = \"sr\"\ndatatype = \"INT64\"\nscalar = true\nconstant = 16000";
        InputPlan::new(&ModelSettings::parse(settings).unwrap(), &[])
    }

    #[test]
    fn inputs_are_ordered_and_constants_added() {
        let sr = || tensor("sr", Datatype::Int64, &[1], 8000i64.to_le_bytes().to_vec());
        let input = || tensor("input", Datatype::Fp32, &[1, 4], vec![0; 16]);
        let bound = vad().bind(vec![sr(), input()]).unwrap();
        assert_eq!(bound[0], BoundInput::Tensor(input()));
        assert_eq!(bound[1], BoundInput::Scalar(Scalar::Int(8000)));
        let bound = vad().bind(vec![input()]).unwrap();
        assert_eq!(bound[1], BoundInput::Scalar(Scalar::Int(16000)));
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let good = || tensor("input", Datatype::Fp32, &[1, 4], vec![0; 16]);
        let cases: Vec<(Vec<Tensor>, &str)> = vec![
            (vec![], "missing"),
            (
                vec![tensor("input", Datatype::Fp64, &[1, 4], vec![0; 32])],
                "FP32",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[1, 5], vec![0; 20])],
                "[-1, 4]",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[4], vec![0; 16])],
                "[-1, 4]",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[1, 4], vec![0; 15])],
                "15 bytes",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[-1, 4], vec![0; 16])],
                "input",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[i64::MAX, 4], vec![])],
                "input",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[3, 4], vec![0; 48])],
                "3 rows",
            ),
            (vec![good(), good()], "twice"),
            (
                vec![good(), tensor("z", Datatype::Int8, &[1], vec![0])],
                "no input \"z\"",
            ),
            (
                vec![good(), tensor("sr", Datatype::Fp32, &[1], vec![0; 4])],
                "sr",
            ),
            (
                vec![good(), tensor("sr", Datatype::Int64, &[2], vec![0; 16])],
                "one value",
            ),
        ];
        for (tensors, word) in cases {
            let error = vad().bind(tensors).unwrap_err().to_string();
            assert!(error.contains(word), "expected {word:?} in {error:?}");
        }
    }

    fn input(name: &str, type_text: &str) -> SignatureInput {
        SignatureInput {
            name: name.into(),
            type_text: type_text.into(),
            has_default: false,
        }
    }

    #[test]
    fn optional_arguments_can_be_left_out_and_are_named_as_such() {
        let with_default = |name: &str, type_text: &str| SignatureInput {
            has_default: true,
            ..input(name, type_text)
        };
        let signature = [
            input("x", "Tensor"),
            input("mask", "Optional[Tensor]"),
            with_default("scale", "float"),
            input("count", "Optional[int]"),
        ];
        let plan = InputPlan::new(&ModelSettings::default(), &signature);
        let x = || tensor("x", Datatype::Int8, &[1], vec![1]);
        let count = || tensor("count", Datatype::Int64, &[1], 3i64.to_le_bytes().to_vec());
        let bound = plan.bind(vec![x(), count()]).unwrap();
        let left_out = BoundInput::Default;
        let given = BoundInput::Scalar(Scalar::Int(3));
        assert_eq!(
            bound,
            [BoundInput::Tensor(x()), left_out.clone(), left_out, given]
        );
        let error = plan.bind(vec![count()]).unwrap_err().to_string();
        assert!(error.contains("\"x\" is missing"), "{error}");
        assert!(
            error.contains("scale (one float value, optional)"),
            "{error}"
        );
        // What model.toml declares is optional if the file says so.
        let settings = "[[inputs]]\nname = \"a\"\ndatatype = \"INT8\"\nshape = [1]\n\
            [[inputs]]\nname = \"b\"\ndatatype = \"FP32\"\nshape = [-1]";
        let plan = InputPlan::new(&ModelSettings::parse(settings).unwrap(), &signature);
        let a = tensor("a", Datatype::Int8, &[1], vec![1]);
        assert_eq!(plan.bind(vec![a]).unwrap()[1], BoundInput::Default);
    }

    #[test]
    fn arguments_can_be_named_by_their_positions() {
        let signature = [input("x", "Tensor"), input("INPUT__0", "Tensor")];
        let plan = InputPlan::new(&ModelSettings::default(), &signature);
        let tensor = |name: &str, value| tensor(name, Datatype::Int8, &[1], vec![value]);
        let bound = plan
            .bind(vec![tensor("INPUT__1", 1), tensor("x", 2)])
            .unwrap();
        assert_eq!(bound[1], BoundInput::Tensor(tensor("INPUT__0", 1)));
        // The name of an argument is that argument.
        let error = plan.bind(vec![tensor("INPUT__0", 1), tensor("INPUT__1", 1)]);
        assert!(error.unwrap_err().to_string().contains("twice"));
        let error = plan.bind(vec![tensor("INPUT__2", 1)]).unwrap_err();
        assert!(error.to_string().contains("x"), "{error}");
    }

    #[test]
    fn names_and_shapes_that_fit_into_no_header_are_refused() {
        let long = |index: usize| format!("x.{index}{}", "n".repeat(4000));
        let part =
            |name: &str, dimensions| tensor(name, Datatype::Int8, &vec![1; dimensions], vec![1]);
        let request = |inputs: Vec<Tensor>, wanted: Vec<String>| InferRequest {
            inputs,
            wanted,
            ..InferRequest::default()
        };
        for request in [
            request(
                (0..300).map(|index| part(&long(index), 1)).collect(),
                vec![],
            ),
            request(vec![], (0..300).map(long).collect()),
            request(
                (0..1024)
                    .map(|index| part(&format!("x.{index}"), 64))
                    .collect(),
                vec![],
            ),
        ] {
            let error = check_names(&request).unwrap_err().to_string();
            assert!(error.contains("names and shapes"), "{error}");
        }
        let names = |name: &str| -> Vec<String> {
            (0..1024).map(|index| format!("{name}.{index}")).collect()
        };
        let inputs = (0..1024).map(|index| part(&format!("x.{index}"), 4));
        assert_eq!(
            check_names(&request(inputs.collect(), names("output"))),
            Ok(())
        );
    }

    #[test]
    fn the_rows_of_parts_are_bounded_too() {
        let settings = ModelSettings::parse("max_batch = 2").unwrap();
        let plan = InputPlan::new(&settings, &[input("x", "List[Tensor]")]);
        let part = |rows: u8| tensor("x.0", Datatype::Int8, &[rows.into()], vec![0; rows.into()]);
        assert!(plan.bind(vec![part(2)]).is_ok());
        let error = plan.bind(vec![part(3)]).unwrap_err().to_string();
        assert!(error.contains("\"x.0\" has 3 rows"), "{error}");
    }

    #[test]
    fn without_settings_the_signature_of_the_file_applies() {
        let signature = [input("x", "Tensor"), input("flag", "bool")];
        let plan = InputPlan::new(&ModelSettings::default(), &signature);
        let x = tensor("x", Datatype::Int8, &[3], vec![1, 2, 3]);
        let flag = tensor("flag", Datatype::Bool, &[1], vec![1]);
        let bound = plan.bind(vec![flag, x.clone()]).unwrap();
        assert_eq!(bound[0], BoundInput::Tensor(x.clone()));
        assert_eq!(bound[1], BoundInput::Scalar(Scalar::Bool(true)));
        let parts =
            |names: [&str; 3]| names.map(|name| tensor(name, Datatype::Int8, &[1], vec![1]));
        let flag = || tensor("flag", Datatype::Bool, &[1], vec![1]);
        let [one, zero, other] = parts(["x.1", "x.0", "xx.0"]);
        let bound = plan.bind(vec![one.clone(), flag(), zero.clone()]).unwrap();
        let group = BoundInput::Group {
            name: "x".into(),
            tensors: vec![one.clone(), zero],
        };
        assert_eq!(bound[0], group);
        for tensors in [
            vec![one, flag(), other],
            vec![x.clone(), flag(), parts(["x.0"; 3])[0].clone()],
        ] {
            assert!(plan.bind(tensors).is_err());
        }
    }
}
