//! What the model was denied: counted, and the first times logged.
//!
//! Everything here may run in a signal handler: it allocates nothing and takes no lock.

use std::{
    ffi::c_char,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use headroom_model_protocol::DeniedAction;

/// Lines that one process logs at most; further denials are only counted.
const LINES_MAX: u32 = 32;

/// Bytes of a line at most.
const LINE_MAX: usize = 320;

static COUNTS: [AtomicU64; DeniedAction::ALL.len()] = [const { AtomicU64::new(0) }; _];
static LINES: AtomicU32 = AtomicU32::new(0);

/// The denials since the last call.
pub(crate) fn take() -> impl Iterator<Item = (DeniedAction, u64)> {
    let counts = DeniedAction::ALL.into_iter().zip(&COUNTS);
    let counts = counts.map(|(action, count)| (action, count.swap(0, Relaxed)));
    counts.filter(|(_, count)| *count > 0)
}

/// A denied action has been recorded; `line` describes it.
pub(super) fn record(action: DeniedAction, line: Line) {
    COUNTS[action as usize].fetch_add(1, Relaxed);
    if LINES.fetch_add(1, Relaxed) < LINES_MAX {
        line.write();
    }
}

/// One line of the log, in a buffer of fixed size.
pub(super) struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    /// A line that begins with this text.
    pub(super) fn new(text: &str) -> Self {
        let line = Self {
            bytes: [0; LINE_MAX],
            len: 0,
        };
        line.text("denied: ").text(text)
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        text.bytes().for_each(|byte| self.push(byte));
        self
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        let digits = number.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            self.push(b'0' + (number / 10u64.pow(place) % 10) as u8);
        }
        self
    }

    /// Appends a C string, without what could be taken for another line.
    ///
    /// # Safety
    /// `string` can be read up to its zero byte.
    pub(super) unsafe fn c_string(mut self, string: *const c_char) -> Self {
        for at in 0..LINE_MAX {
            // SAFETY: the string has not ended before this byte.
            let [byte] = unsafe { string.add(at).read() }.to_ne_bytes();
            match byte {
                0 => break,
                _ if byte.is_ascii_graphic() || byte == b' ' => self.push(byte),
                _ => self.push(b'?'),
            }
        }
        self
    }

    /// What does not fit is left out. The last byte is for the end of the line.
    fn push(&mut self, byte: u8) {
        if self.len < LINE_MAX - 1 {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    fn write(mut self) {
        self.bytes[self.len] = b'\n';
        let line = &self.bytes[..=self.len];
        // SAFETY: the bytes are initialised and outlive the call. A failure changes nothing.
        unsafe { nix::libc::write(nix::libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &Line) -> &str {
        std::str::from_utf8(&line.bytes[..line.len]).unwrap()
    }

    #[test]
    fn a_line_holds_text_numbers_and_what_is_printable_of_a_path() {
        // SAFETY: a C string.
        let line = unsafe { Line::new("open ").c_string(c"/etc/pass\nwd\xc3".as_ptr()) };
        assert_eq!(written(&line), "denied: open /etc/pass?wd?");
        for (number, text) in [(0, "denied: 0"), (10, "denied: 10"), (435, "denied: 435")] {
            assert_eq!(written(&Line::new("").number(number)), text);
        }
        assert_eq!(written(&Line::new(&"x".repeat(1000))).len(), LINE_MAX - 1);
    }
}
