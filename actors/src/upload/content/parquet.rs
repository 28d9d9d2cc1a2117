//! Parquet: `PAR1` at both ends, and before the last one the length of the footer. The footer itself is for a reader.

use super::{
    fault::{ContentFault, Detail},
    kind::Kind,
    walk::u32_le,
    window::Window,
};

const MAGIC: &[u8] = b"PAR1";

pub(super) fn finish(window: &mut Window<'_>) -> Result<Detail, ContentFault> {
    let length = window.length();
    let damaged = |offset, problem| {
        Err(ContentFault::Damaged {
            kind: Kind::Parquet,
            offset,
            problem,
        })
    };
    // The first magic, the footer, its length, the last magic.
    let (start, tail) = window.tail(8)?;
    if length < 12 || tail.get(4..) != Some(MAGIC) {
        return damaged(length, "the file does not end with PAR1: it is cut short");
    }
    let footer = u64::from(u32_le(tail, 0));
    let Some(footer_at) = start
        .checked_sub(footer)
        .filter(|at| *at >= 4 && footer > 0)
    else {
        return damaged(start, "the length of the footer does not fit the file");
    };
    // Thrift's compact form of the first member, the version: member 1, a number of 32 bits.
    if window.get(footer_at, 1)? != Some(&[0x15]) {
        return damaged(footer_at, "the footer does not start with a version");
    }
    Ok(Detail::None {})
}
