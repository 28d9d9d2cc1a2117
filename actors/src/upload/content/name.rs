//! Names of uploaded files: data to show, never paths.
//!
//! A name goes into records, pages, log lines and `Content-Disposition`, and onto the disks of those who download the
//! file. So it has nothing that could act there: no separators, and no characters that are invisible or turn the
//! reading direction (`gpj.exe` shown as `exe.jpg`). Names that only look odd are kept, also those of devices on Windows
//! (`CON.txt`): browsers rename these when they save.

use std::fmt;

use unicode_normalization::UnicodeNormalization;

/// A name that is safe to keep and show, in Unicode's normal form C.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileName {
    name: String,
    /// In lower case.
    extension: Option<String>,
}

/// Why a text is no file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing.
    #[error("the file name is empty")]
    Empty,
    /// More bytes than a file system takes.
    #[error("the file name is longer than {} bytes", FileName::BYTES_MAX)]
    TooLong,
    /// A slash or backslash.
    #[error("the file name contains a path separator: send the name only, without folders")]
    Separator,
    /// The folder itself or its parent.
    #[error("the file name is . or ..")]
    Dots,
    /// A control character.
    #[error("the file name contains the control character U+{:04X}", *.0 as u32)]
    Control(char),
    /// A character that cannot be seen, or changes how others are shown.
    #[error("the file name contains the invisible character U+{:04X}", *.0 as u32)]
    Invisible(char),
    /// A space at either end, or a dot at the end: some systems drop these.
    #[error("the file name starts or ends with a space, or ends with a dot")]
    Edge,
}

impl FileName {
    /// Bytes of a name at most, after normalisation.
    pub const BYTES_MAX: usize = 255;

    /// Normalises and checks a name.
    ///
    /// Some clients send a whole path (`C:\fakepath\a.txt`). Such a name is refused here. A caller that wants to serve
    /// them takes the part after the last separator itself, before: which separators count is a matter of the protocol.
    pub fn parse(name: &str) -> Result<Self, NameFault> {
        // Normalisation shortens a text to a third of its bytes at the most.
        if name.len() > Self::BYTES_MAX * 3 {
            return Err(NameFault::TooLong);
        }
        let name: String = name.nfc().collect();
        if name.is_empty() {
            return Err(NameFault::Empty);
        }
        if name.len() > Self::BYTES_MAX {
            return Err(NameFault::TooLong);
        }
        if name == "." || name == ".." {
            return Err(NameFault::Dots);
        }
        for character in name.chars() {
            match character {
                '/' | '\\' => return Err(NameFault::Separator),
                _ if character.is_control() => return Err(NameFault::Control(character)),
                _ if invisible(character) => return Err(NameFault::Invisible(character)),
                _ => {}
            }
        }
        if name.starts_with(char::is_whitespace)
            || name.ends_with(|last: char| last == '.' || last.is_whitespace())
        {
            return Err(NameFault::Edge);
        }
        let extension = name
            .rsplit_once('.')
            .filter(|(stem, _)| !stem.is_empty())
            .map(|(_, extension)| extension.to_ascii_lowercase());
        Ok(Self { name, extension })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What follows the last dot, in lower case. `.txt` alone has no extension.
    pub fn extension(&self) -> Option<&str> {
        self.extension.as_deref()
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The format characters of Unicode (category Cf), its separators of lines and paragraphs, and letters without a
/// shape. Variation selectors are left out: they belong to everyday emoji.
fn invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{fffe}'..='\u{ffff}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e00ff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_of_many_languages_are_kept() {
        for name in [
            "a.txt",
            "Kündigung 2024 (final).pdf",
            "報告書.csv",
            "отчёт.json",
            "❤\u{fe0f}.png",
            ".hidden.txt",
            "a..b.txt",
            "CON.txt",
            "a:b?.txt",
        ] {
            assert_eq!(FileName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_name_is_normalised_and_its_extension_is_in_lower_case() {
        let name = FileName::parse("Cafe\u{301}.TXT").unwrap();
        assert_eq!(name.as_str(), "Caf\u{e9}.TXT");
        assert_eq!(name.extension(), Some("txt"));
        assert_eq!(FileName::parse(".txt").unwrap().extension(), None);
        assert_eq!(FileName::parse("txt").unwrap().extension(), None);
    }

    #[test]
    fn the_length_counts_after_normalisation() {
        let decomposed = "e\u{301}".repeat(127);
        assert!(FileName::parse(&decomposed).is_ok());
        let fits = "a".repeat(255);
        assert!(FileName::parse(&fits).is_ok());
        for long in ["a".repeat(256), "e\u{301}".repeat(128), "a".repeat(1 << 20)] {
            assert_eq!(FileName::parse(&long), Err(NameFault::TooLong));
        }
    }

    #[test]
    fn names_that_could_act_are_refused() {
        for (name, fault) in [
            ("", NameFault::Empty),
            (".", NameFault::Dots),
            ("..", NameFault::Dots),
            ("a/b.txt", NameFault::Separator),
            ("../b.txt", NameFault::Separator),
            ("C:\\fakepath\\a.txt", NameFault::Separator),
            ("a\0.txt", NameFault::Control('\0')),
            ("a\r\n.txt", NameFault::Control('\r')),
            ("a\u{7f}.txt", NameFault::Control('\u{7f}')),
            ("a\u{85}.txt", NameFault::Control('\u{85}')),
            ("a\u{202e}txt.exe", NameFault::Invisible('\u{202e}')),
            ("a\u{2066}.txt", NameFault::Invisible('\u{2066}')),
            ("a\u{200b}.txt", NameFault::Invisible('\u{200b}')),
            ("\u{feff}a.txt", NameFault::Invisible('\u{feff}')),
            ("a\u{2028}.txt", NameFault::Invisible('\u{2028}')),
            ("a\u{e0041}.txt", NameFault::Invisible('\u{e0041}')),
            (" a.txt", NameFault::Edge),
            ("a.txt ", NameFault::Edge),
            ("a.txt\u{a0}", NameFault::Edge),
            ("a.txt.", NameFault::Edge),
            ("...", NameFault::Edge),
        ] {
            assert_eq!(FileName::parse(name), Err(fault), "{name:?}");
            let message = fault.to_string();
            assert!(
                message.chars().all(|c| c.is_ascii_graphic() || c == ' '),
                "{message:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_parsed_name_parses_to_itself(text in any::<String>()) {
            if let Ok(name) = FileName::parse(&text) {
                prop_assert_eq!(FileName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(!name.as_str().contains(['/', '\\', '\0']));
            }
        }
    }
}
