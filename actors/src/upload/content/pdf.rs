//! PDF: the header near the start, `startxref` and `%%EOF` near the end. The document between them is not read.

use super::{
    fault::{ContentFault, Detail},
    kind::Kind,
    window::Window,
};

/// Where readers look for the header and the trailer: bytes may stand before the one and after the other.
const NEAR: usize = 1024;

pub(super) fn finish(window: &mut Window<'_>) -> Result<Detail, ContentFault> {
    let length = window.length();
    let damaged = |offset, problem| {
        Err(ContentFault::Damaged {
            kind: Kind::Pdf,
            offset,
            problem,
        })
    };
    let head = window
        .get(0, length.min(NEAR as u64) as usize)?
        .unwrap_or_default();
    let Some(header) = first(head, b"%PDF-") else {
        return damaged(0, "there is no header (%PDF-) in the first 1024 bytes");
    };
    // The version: a digit, a dot, a digit.
    let version = head.get(header + 5..header + 8);
    if !matches!(version, Some([b'1'..=b'9', b'.', b'0'..=b'9'])) {
        return damaged(header as u64 + 5, "there is no such version");
    }
    let (start, tail) = window.tail(NEAR)?;
    let Some(end) = last(tail, b"%%EOF") else {
        return damaged(length, "there is no end (%%EOF) in the last 1024 bytes");
    };
    let eof = start + end as u64;
    // The table's place stands before the end. There may be a comment between them.
    let near = eof.min(NEAR as u64) as usize;
    let before = window.get(eof - near as u64, near)?.unwrap_or_default();
    let Some(xref) = last(before, b"startxref") else {
        return damaged(eof, "there is no startxref before the end");
    };
    let number = before[xref + 9..].trim_ascii_start();
    let digits = number
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = std::str::from_utf8(&number[..digits]).unwrap_or_default();
    match number.parse::<u64>() {
        Ok(place) if place < eof => Ok(Detail::None {}),
        _ => damaged(
            eof - near as u64 + xref as u64,
            "startxref points out of the file",
        ),
    }
}

fn first(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn last(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .rposition(|window| window == wanted)
}
