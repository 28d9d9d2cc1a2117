//! Texts that callers or other programs can make long. They are kept, logged and sent, so they are bounded.

/// Shortens a text that is longer than `bytes_max`, and marks that with an ellipsis.
pub fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}
