//! One entry of the directory.

use super::super::{
    fault::ContentFault,
    walk::{u16_le, u32_le, u64_le},
    window::Window,
};

/// Bytes of an entry without its name and more.
pub(super) const ENTRY: usize = 46;

/// Bytes of a name at most: the longest path of common systems.
const NAME_MAX: usize = 4096;

/// An entry as the directory has it.
pub(super) struct Entry {
    flags: u16,
    pub(super) method: u16,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
    pub(super) local_at: u64,
    /// The type of the file on Unix, or 0.
    unix_type: u32,
    pub(super) name_len: usize,
    /// All bytes of the entry in the directory.
    pub(super) len: u64,
}

impl Entry {
    /// Reads the entry of the directory at a place. The inner error says what is wrong with it.
    pub(super) fn read(
        window: &mut Window<'_>,
        at: u64,
        end: u64,
    ) -> Result<Result<Self, &'static str>, ContentFault> {
        let cut = "is cut short";
        if end - at < ENTRY as u64 {
            return Ok(Err(cut));
        }
        let bytes = window.get(at, ENTRY)?.unwrap_or_default();
        if !bytes.starts_with(b"PK\x01\x02") {
            return Ok(Err("is not where it should be"));
        }
        let lens = [28, 30, 32].map(|place| usize::from(u16_le(bytes, place)));
        let [name_len, extra_len, comment_len] = lens;
        // The system that made the archive, and what it knows of the file.
        let unix_type = match bytes[5] {
            3 => u32_le(bytes, 38) >> 16 & 0o17_0000,
            _ => 0,
        };
        let mut entry = Self {
            flags: u16_le(bytes, 8),
            method: u16_le(bytes, 10),
            packed: u64::from(u32_le(bytes, 20)),
            unpacked: u64::from(u32_le(bytes, 24)),
            local_at: u64::from(u32_le(bytes, 42)),
            unix_type,
            name_len,
            len: (ENTRY + name_len + extra_len + comment_len) as u64,
        };
        if u16_le(bytes, 34) != 0 {
            return Ok(Err("is in another part of the archive"));
        }
        if entry.len > end - at {
            return Ok(Err(cut));
        }
        if name_len > NAME_MAX {
            return Ok(Err("has a name longer than 4096 bytes"));
        }
        let is_wide = [entry.packed, entry.unpacked, entry.local_at].contains(&0xffff_ffff);
        if is_wide {
            let extra_at = at + (ENTRY + name_len) as u64;
            let extra = window.get(extra_at, extra_len)?.unwrap_or_default();
            if !entry.widen(extra) {
                return Ok(Err("lacks its large numbers"));
            }
        }
        Ok(Ok(entry))
    }

    /// Takes the large numbers (zip64) for the placeholders.
    fn widen(&mut self, mut extra: &[u8]) -> bool {
        while extra.len() >= 4 {
            let len = usize::from(u16_le(extra, 2));
            let Some(field) = extra.get(4..4 + len) else {
                return false;
            };
            if u16_le(extra, 0) != 1 {
                extra = &extra[4 + len..];
                continue;
            }
            let mut at = 0;
            for number in [&mut self.unpacked, &mut self.packed, &mut self.local_at] {
                if *number != 0xffff_ffff {
                    continue;
                }
                if field.len() < at + 8 {
                    return false;
                }
                *number = u64_le(field, at);
                at += 8;
            }
            return true;
        }
        false
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
        const STORED: u16 = 0;
        const FILE: u32 = 0o10_0000;
        const FOLDER: u32 = 0o4_0000;

        if self.flags & ENCRYPTED != 0 {
            return Err("is encrypted, so it cannot be scanned");
        }
        if self.method == STORED && self.packed != self.unpacked {
            return Err("is not compressed, but has two sizes");
        }
        if !matches!(self.unix_type, 0 | FILE | FOLDER) {
            return Err("is a link or a device");
        }
        Ok(())
    }
}

/// Names are paths with slashes, in UTF-8 or an old encoding that has ASCII in it.
pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("has no name");
    }
    if name.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) {
        return Err("has a control character in its name");
    }
    if name.contains(&b'\\') {
        return Err("has a backslash in its name");
    }
    if name[0] == b'/' || matches!(name, [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err("has an absolute path");
    }
    if name.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err("has a path to a parent folder (..)");
    }
    Ok(())
}
