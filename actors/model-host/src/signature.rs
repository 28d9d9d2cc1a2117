//! Reads the signature of `forward` from an archive's code.
//!
//! TorchScript archives contain their code as text, one file per Python module. libtorch's C interface does not give
//! access to the signature. libtorch's own printer writes the text, so a small parser is enough: it finds the class,
//! then the method's argument list, and skips the bodies.

use headroom_model_protocol::SignatureInput;

/// The signature of a module's class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The arguments of `forward` without `self`.
    pub(crate) inputs: Vec<SignatureInput>,
    /// Number of inputs up to the last one without a default.
    pub(crate) required: usize,
    /// The result's type; empty when the code does not declare it.
    pub(crate) output_type: String,
    /// Whether there is a method `reset_states`.
    pub(crate) has_reset_states: bool,
}

/// The file that contains a class's code, and the class's name in that file.
pub(crate) fn locate(class: &str) -> Option<(String, &str)> {
    let (module, name) = class.rsplit_once('.')?;
    Some((format!("code/{}.py", module.replace('.', "/")), name))
}

/// Reads the signature of a class from its file's text. `None` without the class or its `forward`.
pub(crate) fn read(code: &str, class: &str) -> Option<Signature> {
    let body = class_body(code, class)?;
    let (arguments, output_type) = method(body, "forward")?;
    let mut signature = Signature {
        output_type: output_type.to_owned(),
        has_reset_states: method(body, "reset_states").is_some(),
        ..Signature::default()
    };
    // The first argument is `self`.
    for argument in split(arguments, ',').into_iter().skip(1) {
        let (argument, has_default) = match &split(argument, '=')[..] {
            [argument, _, ..] => (*argument, true),
            _ => (argument, false),
        };
        let (name, type_text) = argument.split_once(':').unwrap_or((argument, "Tensor"));
        signature.inputs.push(SignatureInput {
            name: name.trim().to_owned(),
            type_text: one_line(type_text),
        });
        if !has_default {
            signature.required = signature.inputs.len();
        }
    }
    Some(signature)
}

/// The body of a class: from its first line to the next line without indentation.
fn class_body<'a>(code: &'a str, class: &str) -> Option<&'a str> {
    let head = format!("class {class}(");
    let mut start = None;
    let mut offset = 0;
    for line in code.split_inclusive('\n') {
        if start.is_some() && line.starts_with(|first: char| !first.is_whitespace()) {
            break;
        }
        offset += line.len();
        if line.starts_with(&head) {
            start = Some(offset);
        }
    }
    code.get(start?..offset)
}

/// A method's argument list and result type.
fn method<'a>(body: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let head = format!("\n  def {name}(");
    // A class's first line may be the method.
    let first = head
        .get(1..)
        .filter(|first| body.starts_with(first))
        .map(str::len);
    let start = first.or_else(|| body.find(&head).map(|at| at + head.len()))?;
    let rest = &body[start..];
    let end = find_at_depth_zero(rest, ')')?;
    let after = &rest[end + 1..];
    let result = after
        .strip_prefix(" -> ")
        .and_then(|result| Some(&result[..find_at_depth_zero(result, ':')?]));
    Some((&rest[..end], result.unwrap_or_default().trim()))
}

/// Splits at each separator outside of brackets and quotes. Leaves out empty pieces.
fn split(text: &str, separator: char) -> Vec<&str> {
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
