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

/// A part of a message: as much as has come, and at most the whole message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The message's type. 0 if it has none.
    pub(super) kind: u8,
    /// Whether the message begins with this part.
    pub(super) is_first: bool,
    /// Whether the message ends with this part.
    pub(super) is_last: bool,
    /// Where it begins, where its share of the message's body begins, and where it ends.
    pub(super) from: usize,
    pub(super) body: usize,
    pub(super) to: usize,
}

/// Walks through messages, which come in pieces of any size.
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    /// The type and the length.
    header: [u8; 5],
    /// How many bytes of them have come.
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

    /// The part of `bytes` that begins at `from`, up to which everything was walked through. `None` at their
    /// end.
    pub(super) fn next(&mut self, bytes: &[u8], from: usize) -> Option<Part> {
        let left = bytes.get(from..).filter(|left| !left.is_empty())?;
        let is_first = self.is_between();
        let missing = &mut self.header[self.header_len..];
        let len = missing.len().min(left.len());
        if len > 0 {
            missing[..len].copy_from_slice(&left[..len]);
            self.header_len += len;
            if self.header_len == self.header.len() {
                let [_, length @ ..] = self.header;
                // The length counts itself. A driver refuses a smaller one.
                self.body_left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
            }
        }
        let of_body = self.body_left.min(left.len() - len);
        self.body_left -= of_body;
        let is_last = self.header_len == self.header.len() && self.body_left == 0;
        if is_last {
            // A client that asked for TLS and got none begins again with a message without a type.
            let asked_for_tls = self.header == [0, 0, 0, 0, 8];
            self.header_len = usize::from(asked_for_tls);
        }
        Some(Part {
            kind: self.header[0],
            is_first,
            is_last,
            from,
            body: from + len,
            to: from + len + of_body,
        })
    }

    /// Where in `bytes`, which come next, the first message of this type begins.
    pub(super) fn find(&self, kind: u8, bytes: &[u8]) -> Option<usize> {
        let mut frames = self.clone();
        let mut at = 0;
        while let Some(part) = frames.next(bytes, at) {
            if part.is_first && part.kind == kind {
                return Some(at);
            }
            at = part.to;
        }
        None
    }
}
