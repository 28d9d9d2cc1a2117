//! What a server says when it ends a session.
//!
//! The driver gives that to the first of those that wait for an answer, and all others learn only that the
//! connection was closed. So it is read along.

use tokio_postgres::error::SqlState;

use super::error::farewell;

/// The bytes of an error that are read: its severity, its code and the start of its message come first.
const READ_MAX: usize = 512;

/// An ErrorResponse, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct ErrorResponse(Vec<u8>);

impl ErrorResponse {
    /// Reads the next `part`. The pieces may have any size.
    pub(super) fn read(&mut self, part: &[u8]) {
        let room = READ_MAX - self.0.len();
        self.0.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// What the server says, if it ends the session with it.
    pub(super) fn farewell(&self) -> Option<String> {
        let ends = matches!(&*self.field(b'V')?, "FATAL" | "PANIC");
        let code = SqlState::from_code(&self.field(b'C')?);
        let message = self.field(b'M')?;
        ends.then(|| farewell(&code, &message))
    }

    fn field(&self, kind: u8) -> Option<String> {
        let mut fields = self.0.split(|byte| *byte == 0);
        let field = fields.find_map(|field| field.strip_prefix(&[kind]))?;
        Some(String::from_utf8_lossy(field).into_owned())
    }
}
