//! Reads the signature of `forward` from an archive's code.
//!
//! TorchScript archives contain their code as text, one file per Python module. libtorch's C interface does not give
//! access to the signature. libtorch's own printer writes the text, so a small parser is enough: it finds the class,
//! then the method's argument list, and skips the bodies.

use headroom_model_protocol::{ARGUMENTS_MAX, Description, SignatureInput};

/// The signature of a module's class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The arguments of `forward` without `self`.
    pub(crate) inputs: Vec<SignatureInput>,
    /// The text of each input's default, if it has one.
    pub(crate) defaults: Vec<Option<String>>,
    /// Number of inputs up to the last one without a default.
    pub(crate) required: usize,
    /// The result's type; empty when the code does not declare it.
    pub(crate) output_type: String,
    /// Whether there is a method `reset_states`.
    pub(crate) has_reset_states: bool,
}

impl Signature {
    /// What the server must know of it.
    pub(crate) fn describe(&self) -> Description {
        Description {
            inputs: self.inputs.clone(),
            output_type: self.output_type.clone(),
        }
    }
}

/// The file that contains a class's code, and the class's name in that file.
pub(crate) fn locate(class: &str) -> Option<(String, &str)> {
    let (module, name) = class.rsplit_once('.')?;
    Some((format!("code/{}.py", module.replace('.', "/")), name))
}

/// Reads the signature of a class from its file's text. `None` without the class or its `forward`.
pub(crate) fn read(code: &str, class: &str) -> Option<Signature> {
    let class_code = class_code(code, class)?;
    let (arguments, output_type) = method(class_code, "forward")?;
    let mut signature = Signature {
        output_type: output_type.to_owned(),
        has_reset_states: method(class_code, "reset_states").is_some(),
        ..Signature::default()
    };
    // The first argument is `self`.
    for argument in split(arguments, ',').into_iter().skip(1) {
        let (argument, default) = match &split(argument, '=')[..] {
            [argument, default] => (*argument, Some((*default).to_owned())),
            [argument, _, ..] => (*argument, Some(String::new())),
            _ => (argument, None),
        };
        let (name, type_text) = argument.split_once(':').unwrap_or((argument, "Tensor"));
        if signature.inputs.len() == ARGUMENTS_MAX {
            return None;
        }
        signature.inputs.push(SignatureInput {
            name: name.trim().to_owned(),
            // The printer breaks lines within types.
            type_text: type_text.split_whitespace().collect::<Vec<_>>().join(" "),
            has_default: default.is_some(),
        });
        if default.is_none() {
            signature.required = signature.inputs.len();
        }
        signature.defaults.push(default);
    }
    Some(signature)
}

/// A class's code: from its head to the next line without indentation.
fn class_code<'a>(code: &'a str, class: &str) -> Option<&'a str> {
    let head = format!("class {class}(");
    let heads = code.match_indices(&head).map(|(at, _)| at);
    let mut heads = heads.filter(|&at| at == 0 || code[..at].ends_with('\n'));
    let code = &code[heads.next()?..];
    let mut lines = code.match_indices('\n').map(|(at, _)| at + 1);
    let end = lines.find(|&at| code[at..].starts_with(|first: char| !first.is_whitespace()));
    Some(&code[..end.unwrap_or(code.len())])
}

/// A method's argument list and result type.
fn method<'a>(class_code: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = class_code.split_once(format!("\n  def {name}(").as_str())?;
    let end = find_at_depth_zero(rest, ')')?;
    let after = &rest[end + 1..];
    let result = after
        .strip_prefix(" -> ")
        .and_then(|result| Some(&result[..find_at_depth_zero(result, ':')?]));
    Some((&rest[..end], result.unwrap_or_default().trim()))
}

/// Splits at each separator outside of brackets and quotes. Leaves out empty pieces.
pub(crate) fn split(text: &str, separator: char) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = find_at_depth_zero(rest, separator) {
        pieces.push(rest[..at].trim());
        rest = &rest[at + separator.len_utf8()..];
    }
    pieces.push(rest.trim());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// The position of the first `wanted` outside of brackets and quotes.
fn find_at_depth_zero(text: &str, wanted: char) -> Option<usize> {
    let mut depth = 0u32;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            _ if depth == 0 && character == wanted => return Some(at),
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(signature: &Signature) -> Vec<(&str, &str)> {
        signature
            .inputs
            .iter()
            .map(|input| (input.name.as_str(), input.type_text.as_str()))
            .collect()
    }

    #[test]
    fn code_of_libtorchs_printer_is_read() {
        let code = "class Other(Module):\n  def forward(self: __torch__.Other,\n    y: int) -> int:\n    return y\n\
            class M(Module):\n  __parameters__ = []\n  training : bool\n  def forward(self: __torch__.M,\n    x: Tensor,\n    \
            pair: Tuple[Tensor, Dict[str, List[int]]],\n    sr: int=16000, text: str=\"a), b: (\") -> Tuple[Tensor, Tensor]:\n    \
            return (x, x)\n  def reset_states(self: __torch__.M) -> NoneType:\n    pass\ndef later(x: Tensor):\n  pass\n";
        let signature = read(code, "M").unwrap();
        let expected = [
            ("x", "Tensor"),
            ("pair", "Tuple[Tensor, Dict[str, List[int]]]"),
            ("sr", "int"),
            ("text", "str"),
        ];
        assert_eq!(pairs(&signature), expected);
        assert_eq!(signature.required, 2);
        let defaults = [None, None, Some("16000"), Some("\"a), b: (\"")];
        assert_eq!(signature.defaults, defaults.map(|it| it.map(str::to_owned)));
        assert_eq!(signature.output_type, "Tuple[Tensor, Tensor]");
        assert!(signature.has_reset_states);
        let other = read(code, "Other").unwrap();
        assert_eq!(pairs(&other), [("y", "int")]);
        assert!(!other.has_reset_states);
    }

    #[test]
    fn a_class_without_forward_has_no_signature() {
        assert_eq!(read("class M(Module):\n  w : Tensor\n", "M"), None);
        assert_eq!(
            read(
                "class N(Module):\n  def forward(self) -> int:\n    return 1\n",
                "M"
            ),
            None
        );
        assert_eq!(
            read("class M(Module):\n  def forward(self: M, x: Tensor", "M"),
            None
        );
        assert_eq!(read("", ""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ \\n()\\[\\]:,=\"'\\\\a-cé>-]{0,80}") {
            read(&text, "a");
            let signature = read(&format!("class a(Module):\n  def forward(self{text}"), "a");
            if let Some(signature) = signature {
                prop_assert!(signature.required <= signature.inputs.len());
            }
        }
    }

    #[test]
    fn a_method_may_take_nothing() {
        let signature = read(
            "class M(Module):\n  def forward(self: __torch__.M) -> int:\n    return 1\n",
            "M",
        )
        .unwrap();
        assert_eq!((signature.inputs.len(), signature.required), (0, 0));
    }

    #[test]
    fn a_class_is_found_by_its_qualified_name() {
        assert_eq!(
            locate("__torch__.a.b.M"),
            Some(("code/__torch__/a/b.py".to_owned(), "M"))
        );
        assert_eq!(locate("M"), None);
    }
}
