//! Failures as the server gets them: the kind, and the reason in one line.
//!
//! The text of a C++ exception of libtorch has many lines: either a TorchScript traceback with the reason in its last
//! line, or the reason in the first line and then C++ frames with paths of the machine that built libtorch. Callers
//! get the reason.

use headroom_model_protocol::{Failure, FailureKind};

/// Characters of a reason at most.
const REASON_MAX: usize = 500;

/// A failure of this kind, or an allocation failure if the message reports one.
pub(crate) fn failure(kind: FailureKind, message: impl ToString) -> Failure {
    let message = message.to_string();
    let kind = if is_out_of_memory(&message) {
        FailureKind::OutOfMemory
    } else {
        kind
    };
    Failure { kind, message }
}

/// The reason in an error text, in one line.
pub(crate) fn reason(text: &str) -> String {
    // C++ frames follow this line.
    let text = text
        .split("Exception raised from")
        .next()
        .unwrap_or_default();
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("frame #"));
    let line = if text.contains("Traceback of TorchScript") {
        // The message may have several lines.
        let named = lines.clone().rfind(|line| names_an_error(line));
        named.or_else(|| lines.next_back())
    } else {
        lines.next()
    };
    let line = without_paths(line.unwrap_or("libtorch gave no reason"));
    line.chars()
        .filter(|character| !character.is_control())
        .take(REASON_MAX)
        .collect()
}

/// Whether a line begins with the name of a Python exception and a colon.
fn names_an_error(line: &str) -> bool {
    line.split_once(':').is_some_and(|(name, _)| {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
        name.bytes().all(is_name) && (name.ends_with("Error") || name.ends_with("Exception"))
    })
}

/// Whether an error text reports a failed allocation, of libtorch's tensors or of C++.
fn is_out_of_memory(text: &str) -> bool {
    [
        "DefaultCPUAllocator: can't allocate memory",
        "not enough memory: you tried to allocate",
        "Could not allocate memory",
        "Out of Memory",
        "bad_alloc",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// Shortens absolute paths of source files, such as `at "/pytorch/aten/src/ATen/native/Copy.cpp":12`, to the name.
fn without_paths(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let bare = word.trim_matches(|character: char| {
            "\"'(),.:;".contains(character) || character.is_ascii_digit()
        });
        let is_source = [".cpp", ".h", ".cu", ".hpp", ".cc"]
            .iter()
            .any(|end| bare.ends_with(end));
        if bare.starts_with('/') && is_source {
            bare.rsplit('/').next().unwrap_or_default()
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_traceback_is_the_reason() {
        let text = "The following operation failed in the TorchScript interpreter.\n\
            Traceback of TorchScript, serialized code (most recent call last):\n  \
            File \"code/__torch__.py\", line 5, in forward\n    return x + y\n           ~~~~~ <--- HERE\n\
            RuntimeError: The size of tensor a (2) must match the size of tensor b (3)\n";
        assert_eq!(
            reason(text),
            "RuntimeError: The size of tensor a (2) must match the size of tensor b (3)"
        );
    }

    #[test]
    fn the_line_with_the_name_of_the_error_is_the_reason() {
        let text = "Traceback of TorchScript, serialized code (most recent call last):\n  \
            File \"code/__torch__.py\", line 5, in forward\n    return torch.linear(x)\n           ~~~~~ <--- HERE\n\
            RuntimeError: Could not run 'aten::linear' with arguments from the 'QuantizedCPU' backend.\n\n\
            CPU: registered at RegisterCPU.cpp:1 [kernel]\nMeta: registered at RegisterMeta.cpp:2 [kernel]\n";
        let reason = reason(text);
        assert!(
            reason.starts_with("RuntimeError: Could not run"),
            "{reason}"
        );
    }

    #[test]
    fn the_first_line_is_the_reason_where_frames_follow() {
        let text = "PytorchStreamReader failed locating file constants.pkl: file not found\n\
            Exception raised from valid at /pytorch/caffe2/serialize/inline_container.cc:190 (most recent call first):\n\
            frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x7c (0x7f) (/root/lib/libc10.so)\n";
        assert_eq!(
            reason(text),
            "PytorchStreamReader failed locating file constants.pkl: file not found"
        );
    }

    #[test]
    fn paths_of_the_build_machine_are_left_out() {
        let text = "x INTERNAL ASSERT FAILED at \"/pytorch/aten/src/ATen/native/Copy.cpp\":12, please report a bug";
        assert_eq!(
            reason(text),
            "x INTERNAL ASSERT FAILED at Copy.cpp please report a bug"
        );
    }

    #[test]
    fn long_and_empty_texts_are_bounded() {
        assert_eq!(reason(&"x".repeat(10_000)).len(), REASON_MAX);
        assert_eq!(reason("\n \n"), "libtorch gave no reason");
    }
}
