//! The kinds of files that an upload may be, and which kind a name and a declared media type ask for.
//!
//! The extension decides, because it decides what a program does with the file once it is downloaded. A declared media
//! type can only contradict: clients guess it from the same extension, often badly, so the usual wrong guesses are
//! synonyms here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::name::FileName;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Plain text in UTF-8.
    Text,
    /// Markdown in UTF-8.
    Markdown,
    /// One JSON value in UTF-8.
    Json,
    /// Records of separated values in UTF-8.
    Csv,
    /// A PDF document.
    Pdf,
    /// A PNG image.
    Png,
    /// A JPEG image.
    Jpeg,
    /// A GIF image.
    Gif,
    /// A WebP image.
    #[serde(rename = "webp")]
    WebP,
    /// A model as TorchScript (`torch.jit.save`).
    #[serde(rename = "torchscript")]
    TorchScript,
    /// A model as an exported program (`torch.export.save`).
    ExportedProgram,
    /// A ZIP archive.
    Zip,
    /// An Apache Parquet table.
    Parquet,
    /// A WAVE recording.
    Wav,
}

/// What is said of one kind.
struct Row {
    kind: Kind,
    slug: &'static str,
    /// For messages, with its article.
    label: &'static str,
    /// The usual one first.
    extensions: &'static [&'static str],
    /// The one to serve the file as first, then synonyms.
    media_types: &'static [&'static str],
}

const ROWS: [Row; Kind::ALL.len()] = [
    Row {
        kind: Kind::Text,
        slug: "text",
        label: "a text file",
        extensions: &["txt"],
        media_types: &["text/plain"],
    },
    Row {
        kind: Kind::Markdown,
        slug: "markdown",
        label: "a Markdown file",
        extensions: &["md"],
        media_types: &["text/markdown", "text/x-markdown", "text/plain"],
    },
    Row {
        kind: Kind::Json,
        slug: "json",
        label: "a JSON file",
        extensions: &["json"],
        media_types: &[
            "application/json",
            "text/json",
            "text/x-json",
            "application/x-json",
            "text/plain",
        ],
    },
    Row {
        kind: Kind::Csv,
        slug: "csv",
        label: "a CSV file",
        extensions: &["csv"],
        // Browsers on Windows take the type from the registry, where Excel owns `.csv`.
        media_types: &[
            "text/csv",
            "application/csv",
            "application/x-csv",
            "text/x-csv",
            "text/comma-separated-values",
            "text/x-comma-separated-values",
            "application/vnd.ms-excel",
            "text/plain",
        ],
    },
    Row {
        kind: Kind::Pdf,
        slug: "pdf",
        label: "a PDF document",
        extensions: &["pdf"],
        media_types: &["application/pdf", "application/x-pdf"],
    },
    Row {
        kind: Kind::Png,
        slug: "png",
        label: "a PNG image",
        extensions: &["png"],
        media_types: &["image/png", "image/x-png", "image/apng"],
    },
    Row {
        kind: Kind::Jpeg,
        slug: "jpeg",
        label: "a JPEG image",
        extensions: &["jpg", "jpeg"],
        media_types: &["image/jpeg", "image/jpg", "image/pjpeg"],
    },
    Row {
        kind: Kind::Gif,
        slug: "gif",
        label: "a GIF image",
        extensions: &["gif"],
        media_types: &["image/gif"],
    },
    Row {
        kind: Kind::WebP,
        slug: "webp",
        label: "a WebP image",
        extensions: &["webp"],
        media_types: &["image/webp"],
    },
    Row {
        kind: Kind::TorchScript,
        slug: "torchscript",
        label: "a TorchScript model",
        extensions: &["pt"],
        media_types: &[
            "application/x-torchscript",
            "application/zip",
            "application/x-zip-compressed",
            "application/x-pytorch",
        ],
    },
    Row {
        kind: Kind::ExportedProgram,
        slug: "exported_program",
        label: "an exported PyTorch program",
        extensions: &["pt2"],
        media_types: &[
            "application/x-torch-export",
            "application/zip",
            "application/x-zip-compressed",
            "application/x-pytorch",
        ],
    },
    Row {
        kind: Kind::Zip,
        slug: "zip",
        label: "a ZIP archive",
        extensions: &["zip"],
        media_types: &[
            "application/zip",
            "application/x-zip-compressed",
            "application/x-zip",
            "multipart/x-zip",
        ],
    },
    Row {
        kind: Kind::Parquet,
        slug: "parquet",
        label: "a Parquet file",
        extensions: &["parquet"],
        media_types: &[
            "application/vnd.apache.parquet",
            "application/parquet",
            "application/x-parquet",
        ],
    },
    Row {
        kind: Kind::Wav,
        slug: "wav",
        label: "a WAVE recording",
        extensions: &["wav"],
        media_types: &[
            "audio/wav",
            "audio/x-wav",
            "audio/wave",
            "audio/vnd.wave",
            "audio/x-pn-wav",
        ],
    },
];

/// Declared types that say nothing about the content.
const NEUTRAL: [&str; 2] = ["application/octet-stream", "binary/octet-stream"];

impl Kind {
    /// Whether it is a ZIP archive, whose check reads all over the file.
    pub(in super::super) fn is_archive(self) -> bool {
        matches!(self, Self::TorchScript | Self::ExportedProgram | Self::Zip)
    }

    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Text,
        Self::Markdown,
        Self::Json,
        Self::Csv,
        Self::Pdf,
        Self::Png,
        Self::Jpeg,
        Self::Gif,
        Self::WebP,
        Self::TorchScript,
        Self::ExportedProgram,
        Self::Zip,
        Self::Parquet,
        Self::Wav,
    ];

    fn row(self) -> &'static Row {
        // The variants have no numbers of their own, and the table has their order (a test).
        &ROWS[self as usize]
    }

    /// The name in settings, metrics and records.
    pub fn slug(self) -> &'static str {
        self.row().slug
    }

    /// The name in messages, with its article: "a PNG image".
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// The extensions in lower case, without the dot, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        self.row().extensions
    }

    /// The media type to serve such a file as.
    pub fn media_type(self) -> &'static str {
        self.row().media_types[0]
    }

    /// The kind of an extension in lower case, without the dot.
    pub fn from_extension(extension: &str) -> Option<Self> {
        let row = ROWS
            .iter()
            .find(|row| row.extensions.contains(&extension))?;
        Some(row.kind)
    }

    /// Whether a declared media type agrees with the kind.
    fn agrees(self, essence: &str) -> bool {
        NEUTRAL.contains(&essence)
            || self.row().media_types.contains(&essence)
            || (self == Self::Json
                && essence.starts_with("application/")
                && essence.ends_with("+json"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

/// A text that is no kind's slug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no such kind of file; the kinds are: {}", Kind::ALL.map(Kind::slug).join(", "))]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(slug: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.slug() == slug);
        found.ok_or(UnknownKind)
    }
}

/// Why a name and a declared media type give no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindFault {
    /// The name has no extension.
    #[error("the file name has no extension")]
    NoExtension,
    /// No kind has the extension.
    #[error("files with the extension .{extension} are not accepted")]
    UnknownExtension {
        /// The extension in lower case. A [`FileName`] has no control characters.
        extension: String,
    },
    /// The declared media type is of another kind.
    #[error("the declared type {declared} is not that of {}", kind.label())]
    Contradiction {
        /// The kind by the extension.
        kind: Kind,
        /// The declared type, cut to printable ASCII.
        declared: String,
    },
}

/// The kind that a file claims to be. Parameters of the declared type, such as `charset`, do not matter.
pub fn kind_of(name: &FileName, declared: Option<&str>) -> Result<Kind, KindFault> {
    let extension = name.extension().ok_or(KindFault::NoExtension)?;
    let kind = Kind::from_extension(extension).ok_or_else(|| KindFault::UnknownExtension {
        extension: extension.to_owned(),
    })?;
    let declared = declared.unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if essence.is_empty() || kind.agrees(&essence) {
        return Ok(kind);
    }
    let printable = essence.chars().filter(char::is_ascii_graphic).take(100);
    Err(KindFault::Contradiction {
        kind,
        declared: printable.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, declared: Option<&str>) -> Result<Kind, KindFault> {
        kind_of(&FileName::parse(name).unwrap(), declared)
    }

    #[test]
    fn the_table_has_the_order_of_the_kinds_and_each_slug_and_extension_once() {
        let mut extensions = Vec::new();
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(ROWS[at].kind, kind);
            assert_eq!(kind.slug().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.slug());
            let back: Kind = serde_json::from_value(kind.slug().into()).unwrap();
            assert_eq!(back, kind);
            for extension in kind.extensions() {
                assert_eq!(Kind::from_extension(extension), Some(kind));
                extensions.push(*extension);
            }
            assert!(kind.agrees(kind.media_type()));
        }
        let all = extensions.len();
        extensions.sort_unstable();
        extensions.dedup();
        assert_eq!(extensions.len(), all);
        assert_eq!("exe".parse::<Kind>(), Err(UnknownKind));
        assert!(
            UnknownKind
                .to_string()
                .contains("torchscript, exported_program")
        );
    }

    #[test]
    fn the_extension_decides_whatever_its_case() {
        assert_eq!(kind("a.TXT", None), Ok(Kind::Text));
        assert_eq!(kind("photo.JpEg", None), Ok(Kind::Jpeg));
        assert_eq!(kind("photo.jpg", None), Ok(Kind::Jpeg));
        assert_eq!(kind("model.pt2", None), Ok(Kind::ExportedProgram));
        assert_eq!(kind("a.txt.csv", None), Ok(Kind::Csv));
        assert_eq!(kind("a", None), Err(KindFault::NoExtension));
        let fault = kind("a.png.exe", Some("image/png")).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "files with the extension .exe are not accepted"
        );
    }

    #[test]
    fn a_declared_type_may_be_absent_neutral_or_a_usual_synonym() {
        for (name, declared) in [
            ("a.png", "application/octet-stream"),
            ("a.png", ""),
            ("a.png", " ; charset=utf-8"),
            ("a.txt", "Text/Plain; charset=utf-8"),
            ("a.md", "text/x-markdown"),
            ("a.md", "text/plain"),
            ("a.json", "application/ld+json"),
            ("a.json", "text/plain"),
            ("a.csv", "application/vnd.ms-excel"),
            ("a.csv", "application/csv"),
            ("a.zip", "application/x-zip-compressed"),
            ("a.pt", "application/zip"),
            ("a.wav", "audio/x-wav"),
            ("a.wav", "audio/wave"),
            ("a.jpg", "image/jpg"),
            ("a.parquet", "application/vnd.apache.parquet"),
        ] {
            assert!(kind(name, Some(declared)).is_ok(), "{name} {declared}");
        }
    }

    #[test]
    fn a_declared_type_of_another_kind_is_refused() {
        for (name, declared) in [
            ("a.png", "image/jpeg"),
            ("a.txt", "text/html"),
            ("a.txt", "application/json"),
            ("a.csv", "application/ld+json"),
            ("a.pdf", "text"),
            ("a.wav", "image/png"),
        ] {
            assert!(kind(name, Some(declared)).is_err(), "{name} {declared}");
        }
        let fault = kind("a.png", Some("image/\u{1b}[31mjpeg\r\n")).unwrap_err();
        let expected = "the declared type image/[31mjpeg is not that of a PNG image";
        assert_eq!(fault.to_string(), expected);
    }
}
