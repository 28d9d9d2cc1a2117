//! Text: valid UTF-8 without control bytes, checked piece by piece, handed on to a grammar (JSON, CSV).
//!
//! A fault is always the first one by its place, whatever the pieces: the grammar sees what stands before a bad byte
//! before that byte is reported, and never a part of a character.

use super::{
    csv::Csv,
    fault::{ContentFault, Detail, Limits, Problem},
    json::Json,
    kind::Kind,
};

/// What a text has to obey beyond being text.
#[derive(Debug)]
enum Grammar {
    None,
    Json(Json),
    Csv(Box<Csv>),
}

/// A text on its way in.
#[derive(Debug)]
pub(super) struct Text {
    kind: Kind,
    grammar: Grammar,
    /// Bytes that passed.
    offset: u64,
    /// Line ends that passed.
    line_ends: u64,
    /// Whether the last byte that passed was a line end.
    at_line_start: bool,
    /// The begun character.
    begun: [u8; 4],
    begun_len: usize,
}

impl Text {
    pub(super) fn new(kind: Kind, limits: &Limits) -> Self {
        let grammar = match kind {
            Kind::Json => Grammar::Json(Json::new(limits.json_depth_max)),
            Kind::Csv => Grammar::Csv(Box::new(Csv::new(limits))),
            _ => Grammar::None,
        };
        Self {
            kind,
            grammar,
            offset: 0,
            line_ends: 0,
            at_line_start: true,
            begun: [0; 4],
            begun_len: 0,
        }
    }

    /// Skips the mark that some editors write before UTF-8. The first piece holds it whole.
    pub(super) fn skip_mark<'a>(&mut self, head: &'a [u8]) -> &'a [u8] {
        let Some(rest) = head.strip_prefix(b"\xef\xbb\xbf") else {
            return head;
        };
        self.offset = 3;
        rest
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ContentFault> {
        while self.begun_len > 0 {
            let Some((first, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.begun[self.begun_len] = *first;
            let begun = self.begun;
            match std::str::from_utf8(&begun[..=self.begun_len]) {
                Ok(_) => {
                    let len = self.begun_len + 1;
                    self.begun_len = 0;
                    self.pass(&begun[..len])?;
                }
                Err(error) if error.error_len().is_none() => self.begun_len += 1,
                Err(_) => return Err(self.encoding()),
            }
            bytes = rest;
        }
        let Err(error) = std::str::from_utf8(bytes) else {
            return self.pass(bytes);
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        self.pass(valid)?;
        if error.error_len().is_some() {
            return Err(self.encoding());
        }
        self.begun[..rest.len()].copy_from_slice(rest);
        self.begun_len = rest.len();
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Detail, ContentFault> {
        if self.begun_len > 0 {
            return Err(self.encoding());
        }
        let end = match &mut self.grammar {
            Grammar::None => Ok(Detail::Text {
                lines: self.line_ends + u64::from(!self.at_line_start),
            }),
            Grammar::Json(json) => json.finish().map(|()| Detail::None {}),
            Grammar::Csv(csv) => csv
                .finish()
                .map(|(columns, records)| Detail::Table { columns, records }),
        };
        end.map_err(|problem| ContentFault::Syntax {
            kind: self.kind,
            offset: self.offset,
            line: self.line_ends + 1,
            problem,
        })
    }

    fn encoding(&self) -> ContentFault {
        ContentFault::Encoding {
            offset: self.offset,
            line: self.line_ends + 1,
        }
    }

    /// Takes whole characters.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), ContentFault> {
        // The grammar of JSON is stricter with most control bytes, and allows 0x7f.
        let control = match self.grammar {
            Grammar::Json(_) => None,
            _ => find(bytes, is_control),
        };
        let before = &bytes[..control.unwrap_or(bytes.len())];
        let fed = match &mut self.grammar {
            Grammar::None => Ok(()),
            Grammar::Json(json) => json.feed(before),
            Grammar::Csv(csv) => csv.feed(before, self.offset),
        };
        if let Err((at, problem)) = fed {
            return Err(ContentFault::Syntax {
                kind: self.kind,
                offset: self.offset + at as u64,
                line: self.line_ends + 1 + line_ends(&before[..at]),
                problem,
            });
        }
        self.offset += before.len() as u64;
        self.line_ends += line_ends(before);
        if let Some(at) = control {
            return Err(ContentFault::Control {
                byte: bytes[at],
                offset: self.offset,
                line: self.line_ends + 1,
            });
        }
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        Ok(())
    }
}

/// Where a grammar stopped in the bytes it got, and why.
pub(super) type Stop = (usize, Problem);

/// All control bytes but those that editors and printers use in texts: tab, line feed, form feed, carriage return.
/// The control characters of two bytes (U+0080 to U+009F) pass: old texts have them, and terminals take them as data.
pub(super) fn is_control(byte: u8) -> bool {
    (byte < 0x20) & !matches!(byte, b'\t' | b'\n' | 0x0c | b'\r') | (byte == 0x7f)
}

/// The first byte with a property. Blocks without branches, so that the compiler can use vectors.
pub(super) fn find(bytes: &[u8], wanted: impl Fn(u8) -> bool + Copy) -> Option<usize> {
    const BLOCK: usize = 32;
    let mut at = 0;
    for block in bytes.chunks(BLOCK) {
        if block.iter().fold(false, |any, byte| any | wanted(*byte)) {
            return block
                .iter()
                .position(|byte| wanted(*byte))
                .map(|found| at + found);
        }
        at += BLOCK;
    }
    None
}

fn line_ends(bytes: &[u8]) -> u64 {
    // Sums of bytes fit a byte, so that the compiler can use its widest vectors.
    let blocks = bytes.chunks(255);
    blocks
        .map(|block| {
            u64::from(
                block
                    .iter()
                    .map(|byte| u8::from(*byte == b'\n'))
                    .sum::<u8>(),
            )
        })
        .sum()
}
