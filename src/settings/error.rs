//! Errors in the settings. Each fault is one line that names the key, its origin, and the rule. The value
//! of a secret is never part of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults compiled into the binary.
    BuiltIn,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A file that contains one secret.
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

/// One error in the settings.
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
        /// The parser's message.
        message: String,
    },
    /// A profile's name is not a valid file name.
    #[error("profile {name:?}: must be made of letters, digits, '-' and '_'")]
    ProfileName {
        /// The name.
        name: String,
    },
    /// No key has this name.
    #[error("{origin}: unknown key {key}{}", did_you_mean(nearest.as_deref()))]
    UnknownKey {
        /// The unknown key.
        key: String,
        /// The origin.
        origin: Origin,
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// A section has a plain value.
    #[error("{origin}: {key} is a section and cannot have a value of its own")]
    SectionHasValue {
        /// The section.
        key: String,
        /// The origin.
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
        /// The origin.
        origin: Origin,
        /// Completes "must be …".
        rule: &'static str,
        /// What to change, if that is known.
        advice: Option<String>,
    },
    /// A secret is set but empty. Most likely the tool that provides it has failed.
    #[error("{origin}: {key} is empty; set the secret, or remove the key")]
    EmptySecret {
        /// The key.
        key: String,
        /// The origin.
        origin: Origin,
    },
    /// No layer sets a required key.
    #[error("{key} is not set")]
    Missing {
        /// The key.
        key: String,
    },
    /// One layer has both a secret and the name of its file.
    #[error("{origin}: {key} and {key}_file are both set; keep one of them")]
    BothForms {
        /// The key without `_file`.
        key: String,
        /// The origin.
        origin: Origin,
    },
    /// The file of a secret cannot be read.
    #[error("{origin}: {key}_file names {}, which cannot be read: {source}", path.display())]
    SecretFile {
        /// The key without `_file`.
        key: String,
        /// The origin of the key.
        origin: Origin,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Values are valid one by one but not together.
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

/// All errors in the settings, one line each.
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
