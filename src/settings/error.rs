//! What can be wrong with the settings, said so that it can be put right at a glance: each fault
//! is one line that names the key, where it stood, and the rule. A secret's value is never part
//! of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Where a value stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults compiled into the binary.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A file that holds nothing but a secret.
    SecretFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in defaults"),
            Self::File(path) | Self::SecretFile(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// A configuration file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration file is not TOML.
    #[error("{origin}: line {line}: {message}")]
    Syntax {
        /// The file.
        origin: Origin,
        /// Counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A profile's name cannot be a file's name.
    #[error("profile {name:?}: must be made of letters, digits, '-' and '_'")]
    ProfileName {
        /// As given.
        name: String,
    },
    /// No key has this name.
    #[error("{origin}: unknown key {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// As it stood.
        key: String,
        /// Where.
        origin: Origin,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A section's name was given a plain value.
    #[error("{origin}: {key} is a section and cannot have a value of its own")]
    SectionHasValue {
        /// The section.
        key: String,
        /// Where.
        origin: Origin,
    },
    /// A value has the wrong type or breaks its key's rule.
    #[error(
        "{origin}: {key}{} must be {rule}{}",
        shown(value.as_deref()),
        more(advice.as_deref())
    )]
    Invalid {
        /// The key.
        key: String,
        /// The value, unless it is secret.
        value: Option<String>,
        /// Where.
        origin: Origin,
        /// Completes "must be …".
        rule: &'static str,
        /// What to change, where that is known.
        advice: Option<String>,
    },
    /// A secret was given and is empty: most likely whatever should have filled it did not.
    #[error("{origin}: {key} is empty; give the secret, or leave the key out to have none")]
    EmptySecret {
        /// The key.
        key: String,
        /// Where.
        origin: Origin,
    },
    /// No layer gives a value to a key that needs one.
    #[error("{key} is not set")]
    Missing {
        /// The key.
        key: String,
    },
    /// A secret was given both as it is and as a file, in the same place.
    #[error("{origin}: {key} and {key}_file are both set; keep one of them")]
    BothForms {
        /// The key without `_file`.
        key: String,
        /// Where.
        origin: Origin,
    },
    /// The file that should hold a secret cannot be read.
    #[error("{origin}: {key}_file names {}, which cannot be read: {source}", path.display())]
    SecretFile {
        /// The key without `_file`.
        key: String,
        /// Where the key stood.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Values that are fine one by one do not go together.
    #[error("{0}")]
    Rule(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|key| format!("; did you mean {key}?"))
        .unwrap_or_default()
}

fn more(advice: Option<&str>) -> String {
    advice
        .map(|advice| format!("; {advice}"))
        .unwrap_or_default()
}

fn shown(value: Option<&str>) -> String {
    value.map(|value| format!(" = {value}")).unwrap_or_default()
}

/// Everything found wrong with the settings, one line each.
#[derive(Debug, Error)]
pub struct SettingsError(pub Vec<Fault>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}
