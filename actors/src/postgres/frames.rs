//! The messages of PostgreSQL's protocol: a type, the length of the rest, and the rest.

use bytes::BufMut;

/// Appends a message with this type and these parts.
pub(super) fn put(messages: &mut impl BufMut, kind: u8, parts: &[&[u8]]) {
    let length = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    messages.put_u8(kind);
    messages.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for part in parts {
        messages.put_slice(part);
    }
}

/// A message, for tests.
#[cfg(test)]
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put(&mut message, kind, &[body]);
    message
}

/// Walks through messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    kind: u8,
    length: [u8; 4],
    /// How many bytes of the type and the length have come.
    header_len: usize,
    body_left: usize,
}

impl Frames {
    /// Before the first message of a client, which has no type.
    pub(super) fn of_client() -> Self {
        Self {
            header_len: 1,
            ..Self::default()
        }
    }

    /// Before the first message of a server, which first answers with one byte whether it uses TLS if
    /// `asks_for_tls`.
    pub(super) fn of_server(asks_for_tls: bool) -> Self {
        if !asks_for_tls {
            return Self::default();
        }
        // As if that byte were the last one of a message.
        Self {
            header_len: 5,
            body_left: 1,
            ..Self::default()
        }
    }

    /// Whether a message begins with the next byte.
    pub(super) fn is_between(&self) -> bool {
        self.header_len == 0
    }

    /// Walks on, to the end of the current message at most. Returns how many of `bytes` that is.
    pub(super) fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.header_len < 5 && at < bytes.len() {
            match self.header_len {
                0 => self.kind = bytes[at],
                filled => self.length[filled - 1] = bytes[at],
            }
            self.header_len += 1;
            at += 1;
            if self.header_len == 5 {
                // The length counts itself.
                self.body_left = (u32::from_be_bytes(self.length) as usize).saturating_sub(4);
            }
        }
        let part = self.body_left.min(bytes.len() - at);
        self.body_left -= part;
        if self.header_len == 5 && self.body_left == 0 {
            // A client that asked for TLS and got none begins again with a message without a type.
            let asked_for_tls = self.kind == 0 && self.length == [0, 0, 0, 8];
            self.header_len = usize::from(asked_for_tls);
        }
        at + part
    }

    /// Where in `bytes`, which come next, the first message of this type begins.
    pub(super) fn find(&self, kind: u8, bytes: &[u8]) -> Option<usize> {
        let mut frames = self.clone();
        let mut at = 0;
        while at < bytes.len() {
            if frames.is_between() && bytes[at] == kind {
                return Some(at);
            }
            at += frames.walk(&bytes[at..]);
        }
        None
    }
}
