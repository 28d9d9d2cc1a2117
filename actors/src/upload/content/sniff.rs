//! The first bytes: whether they are the kind's, and what they are if not.
//!
//! `infer` knows many types, some by two or three letters only (`BM`, `MZ`, `GIF`): with these a text may begin. So it
//! is not asked about what looks like a text; for that there are some marks of our own.

use super::{fault::ContentFault, kind::Kind, text, torch};

/// Bytes to look at. All marks of the kinds, and of programs, fit.
pub(super) const HEAD: usize = 64;

/// Marks of printable letters that no text starts with by chance.
const PRINTABLE: [(&[u8], &str); 5] = [
    (b"%PDF-", "application/pdf"),
    (b"{\\rtf", "application/rtf"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"!<arch>\n", "application/x-unix-archive"),
];

/// Judges the first bytes: [`HEAD`], or all of a shorter file.
pub(super) fn check(kind: Kind, head: &[u8]) -> Result<(), ContentFault> {
    if matches!(kind, Kind::Text | Kind::Markdown | Kind::Json | Kind::Csv) {
        return check_text(kind, head);
    }
    let riff = |form: &[u8]| head.starts_with(b"RIFF") && head.get(8..12) == Some(form);
    let fits = match kind {
        Kind::Png => head.starts_with(b"\x89PNG\r\n\x1a\n"),
        Kind::Jpeg => head.starts_with(b"\xff\xd8\xff"),
        Kind::Gif => head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a"),
        Kind::WebP => riff(b"WEBP"),
        Kind::Wav => riff(b"WAVE"),
        Kind::Parquet => head.starts_with(b"PAR1"),
        Kind::Zip => is_zip(head) || head.starts_with(b"PK\x05\x06"),
        Kind::TorchScript | Kind::ExportedProgram => is_zip(head),
        // The header may follow other bytes, but not those of another type.
        Kind::Pdf => matches!(found(head), None | Some("application/pdf")),
        Kind::Text | Kind::Markdown | Kind::Json | Kind::Csv => true,
    };
    if fits {
        return Ok(());
    }
    // Protocols 2 to 5 of Python's pickle. Old PyTorch wrote models as such.
    if kind == Kind::TorchScript && matches!(head, [0x80, 2..=5, ..]) {
        return Err(ContentFault::Model(torch::PICKLE));
    }
    if kind == Kind::Parquet && head.starts_with(b"PARE") {
        return Err(ContentFault::Mismatch {
            kind,
            found: "an encrypted Parquet file, which cannot be scanned",
        });
    }
    Err(match found(head) {
        Some(found) => ContentFault::Mismatch { kind, found },
        None => ContentFault::Unrecognised(kind),
    })
}

fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
}

fn check_text(kind: Kind, head: &[u8]) -> Result<(), ContentFault> {
    if matches!(
        head,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 0, 0xfe, 0xff, ..]
    ) {
        return Err(ContentFault::WideText);
    }
    if is_script(head) {
        return Err(ContentFault::Mismatch {
            kind,
            found: SCRIPT,
        });
    }
    // Files of all other types have control bytes at their start.
    let found = if text::find(head, text::is_control).is_none() {
        let mark = PRINTABLE.iter().find(|(mark, _)| head.starts_with(mark));
        mark.map(|(_, found)| *found)
    } else {
        found(head)
    };
    if let Some(found) = found {
        return Err(ContentFault::Mismatch { kind, found });
    }
    // ASCII in UTF-16 without a mark: each second byte is zero.
    if let [a, b, c, d, ..] = head
        && (a | c == 0 && *b > 0 && *d > 0 || b | d == 0 && *a > 0 && *c > 0)
    {
        return Err(ContentFault::WideText);
    }
    Ok(())
}

const SCRIPT: &str = "a script for an interpreter (#!)";

fn is_script(head: &[u8]) -> bool {
    head.strip_prefix(b"#!")
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"/"))
}

/// What the bytes are, for a message.
fn found(head: &[u8]) -> Option<&'static str> {
    if is_script(head) {
        return Some(SCRIPT);
    }
    Some(plain(infer::get(head)?.mime_type()))
}

fn plain(media_type: &'static str) -> &'static str {
    match media_type {
        "application/vnd.microsoft.portable-executable" => "a program for Windows",
        "application/x-executable" => "a program for Linux (ELF)",
        "application/x-mach-binary" => "a program for macOS",
        "application/java" => "a program for Java",
        "text/x-shellscript" => SCRIPT,
        other => other,
    }
}
