//! Reads the defaults of arguments, as libtorch's printer writes them: `None`, `True`, `-3`, `2.`, `"mean"`, `[1, 2]`.
//!
//! libtorch itself adds the defaults after the last argument of a call. One that is left out before that is given here.

use headroom_model_protocol::Scalar;

/// A default.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Default {
    None,
    Scalar(Scalar),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

/// Reads the default of an argument of the type `type_text`. `None` for a kind that this module does not know.
pub(crate) fn read(text: &str, type_text: &str) -> Option<Default> {
    let is_float = type_text.contains("float");
    Some(match text.trim() {
        "None" => Default::None,
        "True" => Default::Scalar(Scalar::Bool(true)),
        "False" => Default::Scalar(Scalar::Bool(false)),
        text if text.starts_with(['"', '\'']) => Default::Text(read_text(text)?),
        text if text.starts_with('[') => {
            let items = text.strip_prefix('[')?.strip_suffix(']')?;
            let items = items.split(',').map(str::trim);
            let items = items.filter(|item| !item.is_empty());
            if is_float {
                Default::Floats(items.map(read_float).collect::<Option<_>>()?)
            } else if type_text.contains("int") {
                Default::Ints(items.map(|item| item.parse().ok()).collect::<Option<_>>()?)
            } else {
                return None;
            }
        }
        text if is_float => Default::Scalar(Scalar::Float(read_float(text)?)),
        text => Default::Scalar(match text.parse() {
            Ok(int) => Scalar::Int(int),
            Err(_) => Scalar::Float(read_float(text)?),
        }),
    })
}

fn read_float(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    is_number.then(|| text.parse().ok())?
}

/// A string within quotation marks.
fn read_text(text: &str) -> Option<String> {
    let mut characters = text.chars();
    let quote = characters.next()?;
    let mut value = String::new();
    loop {
        match characters.next()? {
            end if end == quote => return characters.next().is_none().then_some(value),
            '\\' => value.push(match characters.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                same @ ('\\' | '"' | '\'') => same,
                _ => return None,
            }),
            character => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_read_as_the_printer_writes_them() {
        let int = |value| Default::Scalar(Scalar::Int(value));
        let float = |value| Default::Scalar(Scalar::Float(value));
        for (text, type_text, expected) in [
            ("None", "Optional[Tensor]", Default::None),
            ("True", "bool", Default::Scalar(Scalar::Bool(true))),
            ("-3", "int", int(-3)),
            ("2.", "float", float(2.0)),
            ("1.0000000000000001e-05", "float", float(1e-5)),
            ("2", "float", float(2.0)),
            ("2", "Optional[float]", float(2.0)),
            ("7", "number", int(7)),
            ("7.5", "number", float(7.5)),
            ("\"mean\"", "str", Default::Text("mean".to_owned())),
            (r#""a\"\\\n""#, "str", Default::Text("a\"\\\n".to_owned())),
            ("[1, -2]", "List[int]", Default::Ints(vec![1, -2])),
            ("[]", "List[int]", Default::Ints(vec![])),
            ("[1., 2.]", "List[float]", Default::Floats(vec![1.0, 2.0])),
        ] {
            assert_eq!(read(text, type_text), Some(expected), "{text}");
        }
        for text in [
            "",
            "x",
            "inf",
            "\"open",
            "\"a\" b",
            "[1",
            "[x]",
            "\"\\x\"",
            "torch.device(\"cpu\")",
        ] {
            assert_eq!(read(text, "int"), None, "{text}");
        }
        assert_eq!(read("inf", "float"), None);
        for type_text in ["List[str]", "List[Tensor]", "List[bool]"] {
            assert_eq!(read("[]", type_text), None);
        }
    }
}
