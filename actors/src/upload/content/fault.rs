//! What a check finds: faults, told to the one who uploaded, and facts, kept with the file.

use std::io;

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// Bounds of what a file may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of an image at most: what a decoder has to allocate.
    pub pixels_max: u64,
    /// Nested arrays and objects of a JSON value at most. More than 1,024 count as 1,024.
    pub json_depth_max: u32,
    /// Entries of an archive at most.
    pub zip_entries_max: u64,
    /// Unpacked bytes of an archive at most, for each byte of its file.
    pub zip_ratio_max: u64,
    /// Columns of a CSV file at most.
    pub csv_columns_max: u64,
    /// Bytes of a CSV field at most.
    pub csv_field_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pixels_max: 100_000_000,
            json_depth_max: 64,
            zip_entries_max: 100_000,
            zip_ratio_max: 200,
            // What a sheet of Excel has.
            csv_columns_max: 16_384,
            csv_field_max: 1 << 20,
        }
    }
}

/// What is known of a checked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The media type by the content.
    pub media_type: &'static str,
    /// What else was cheap to learn.
    #[serde(flatten)]
    pub detail: Detail,
}

/// What is cheap to learn of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Detail {
    /// Of a text.
    Text {
        /// Lines, the last one also without an end.
        lines: u64,
    },
    /// Of a table.
    Table {
        /// Columns of each record.
        columns: u64,
        /// Records, with a first one that may be a header.
        records: u64,
    },
    /// Of an image.
    Image {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Of an archive.
    Archive {
        /// Entries.
        entries: u64,
        /// Bytes of all entries unpacked, as the directory declares.
        unpacked_bytes: u64,
    },
    /// Of a recording.
    Audio {
        /// Channels.
        channels: u16,
        /// Samples of a channel in a second.
        sample_rate: u32,
    },
    /// Nothing. The last one: every object can be read as this.
    None {},
}

/// Why a file is refused. Messages name places and numbers, never the content.
#[derive(Debug, thiserror::Error)]
pub enum ContentFault {
    /// No bytes, of a kind that has some.
    #[error("the file is empty, so it is not {}", .0.label())]
    Empty(Kind),
    /// A known type that is not the kind's.
    #[error("the content is {found}, not {}", kind.label())]
    Mismatch {
        /// The kind by the name.
        kind: Kind,
        /// What the first bytes show.
        found: &'static str,
    },
    /// First bytes that are not the kind's.
    #[error("the content does not start like {}", .0.label())]
    Unrecognised(Kind),
    /// A text in UTF-16 or UTF-32.
    #[error("the text is in UTF-16 or UTF-32: save it as UTF-8")]
    WideText,
    /// A text in no or another encoding.
    #[error("the text is not valid UTF-8 at byte {offset} (line {line})")]
    Encoding {
        /// The place, from 0.
        offset: u64,
        /// The line, from 1.
        line: u64,
    },
    /// A control byte in a text.
    #[error("the text has the control byte 0x{byte:02x} at byte {offset} (line {line})")]
    Control {
        /// The byte.
        byte: u8,
        /// The place, from 0.
        offset: u64,
        /// The line, from 1.
        line: u64,
    },
    /// A text that breaks its format's grammar or limits.
    #[error("the {kind} is wrong at byte {offset} (line {line}): {problem}")]
    Syntax {
        /// The kind.
        kind: Kind,
        /// The place, from 0.
        offset: u64,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// A binary file whose structure is wrong.
    #[error("the {kind} file is damaged at byte {offset}: {problem}")]
    Damaged {
        /// The kind.
        kind: Kind,
        /// The place, from 0.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An image too large to decode.
    #[error(
        "the image has {width} x {height} pixels, more than the {pixels_max} that are accepted"
    )]
    Pixels {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit.
        pixels_max: u64,
    },
    /// An archive that says more than is accepted.
    #[error("the archive has {found} {what}, more than the {limit} that are accepted")]
    ArchiveLimit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An entry of an archive that must not be unpacked.
    #[error("entry {entry} of the archive {problem}")]
    ArchiveEntry {
        /// Its place in the directory, from 1.
        entry: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// An archive that is no model.
    #[error("{0}")]
    Model(&'static str),
    /// A file that the server could not read back: not the uploader's fault.
    #[error("the file cannot be read back")]
    Read(#[source] io::Error),
}

impl ContentFault {
    /// Whether the server failed, and not the content.
    pub fn is_servers(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// A word for metrics.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Empty(_) => "empty",
            Self::Mismatch { .. } | Self::Unrecognised(_) => "mismatch",
            Self::WideText | Self::Encoding { .. } => "encoding",
            Self::Control { .. } => "control",
            Self::Syntax { .. } => "syntax",
            Self::Damaged { .. } => "damaged",
            Self::Pixels { .. } | Self::ArchiveLimit { .. } => "limit",
            Self::ArchiveEntry { .. } => "entry",
            Self::Model(_) => "model",
            Self::Read(_) => "read",
        }
    }
}

/// What is wrong at a place in a JSON or CSV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else should stand there.
    #[error("{0}")]
    Is(&'static str),
    /// Too many nested arrays and objects.
    #[error("it nests deeper than {0} levels")]
    Depth(u32),
    /// A record with more or fewer columns than the first.
    #[error("this record has {found} columns, the first one has {expected}")]
    Columns {
        /// Columns of this record.
        found: u64,
        /// Columns of the first.
        expected: u64,
    },
    /// Too many columns.
    #[error("it has more than {0} columns")]
    ColumnsMax(u64),
    /// Too long a field.
    #[error("a field is longer than {0} bytes")]
    FieldMax(u64),
    /// A quote without its partner.
    #[error("the quote opened at byte {0} is never closed")]
    Unclosed(u64),
}
