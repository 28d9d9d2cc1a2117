//! Merges the layers of the settings.
//!
//! Order: built-in defaults < the base file < the profile's file < the environment; later layers win.
//! Raw values are merged key by key together with their origin, and are converted to types afterwards,
//! so that every fault can name the origin of the value.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{Fault, Origin};
use super::section::{Key, Located, Raw};

/// The prefix of environment variables that are settings.
pub const VARIABLE_PREFIX: &str = "HEADROOM__";

/// The base file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "config/default.toml";

/// The reference file. It is compiled in, so a server without any file has the same defaults.
const BUILT_IN: &str = include_str!("../../config/default.toml");

/// Which files to read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The base file. If not set, [`DEFAULT_FILE`], which may be missing.
    pub config: Option<PathBuf>,
    /// The profile: `<profile>.toml` in the base file's folder.
    pub profile: Option<String>,
}

/// Environment variables. They are an argument, so that tests need not change their own environment.
pub type Environment = BTreeMap<String, String>;

/// A known word is suggested only if its similarity is at least this (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.8;

pub(crate) struct Layers<'a> {
    keys: &'a [Key],
    values: BTreeMap<String, Located>,
    faults: Vec<Fault>,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(keys: &'a [Key]) -> Self {
        Self {
            keys,
            values: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    /// Reads every layer. Returns the valid values and all faults.
    pub(crate) fn read(
        mut self,
        sources: &Sources,
        environment: &Environment,
    ) -> (BTreeMap<String, Located>, Vec<Fault>) {
        self.text(BUILT_IN, &Origin::BuiltIn);
        let base = sources
            .config
            .clone()
            .unwrap_or_else(|| DEFAULT_FILE.into());
        self.file(&base, sources.config.is_some());
        if let Some(profile) = &sources.profile {
            self.profile(profile, &base);
        }
        self.environment(environment);
        self.secret_files();
        (self.values, self.faults)
    }

    fn profile(&mut self, profile: &str, base: &Path) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if profile.is_empty() || !profile.chars().all(plain) {
            self.faults.push(Fault::ProfileName {
                name: profile.into(),
            });
            return;
        }
        self.file(&base.with_file_name(format!("{profile}.toml")), true);
    }

    fn file(&mut self, path: &Path, required: bool) {
        match fs::read_to_string(path) {
            Ok(text) => self.text(&text, &Origin::File(path.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
            Err(source) => self.faults.push(Fault::Unreadable {
                path: path.into(),
                source,
            }),
        }
    }

    fn text(&mut self, text: &str, origin: &Origin) {
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let error: toml::de::Error = error;
                let start = error.span().map_or(0, |span| span.start.min(text.len()));
                self.faults.push(Fault::Syntax {
                    origin: origin.clone(),
                    line: 1 + text.as_bytes()[..start]
                        .iter()
                        .filter(|b| **b == b'\n')
                        .count(),
                    message: error.message().lines().collect::<Vec<_>>().join(", "),
                });
                return;
            }
        };
        let mut layer = BTreeMap::new();
        self.flatten(String::new(), table, origin, &mut layer);
        self.merge(layer);
    }

    fn flatten(
        &mut self,
        prefix: String,
        table: Table,
        origin: &Origin,
        layer: &mut BTreeMap<String, Located>,
    ) {
        for (name, value) in table {
            let path = super::section::join(&prefix, &name);
            if self.knows(&path) {
                let raw = Raw::Toml(value);
                let origin = origin.clone();
                layer.insert(path, Located { raw, origin });
            } else if !self.is_section(&path) {
                self.unknown(path, origin);
            } else if let Value::Table(inner) = value {
                self.flatten(path, inner, origin, layer);
            } else {
                self.faults.push(Fault::SectionHasValue {
                    key: path,
                    origin: origin.clone(),
                });
            }
        }
    }

    fn environment(&mut self, environment: &Environment) {
        let mut layer = BTreeMap::new();
        for (name, text) in environment {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Variable(name.clone());
            if self.knows(&path) {
                let raw = Raw::Text(text.clone());
                layer.insert(path, Located { raw, origin });
            } else if self.is_section(&path) {
                self.faults
                    .push(Fault::SectionHasValue { key: path, origin });
            } else {
                self.unknown(path, &origin);
            }
        }
        self.merge(layer);
    }

    /// Merges a layer over the previous ones. A secret and the name of its file are two forms of one key:
    /// the form in the higher layer replaces the form in the lower one.
    fn merge(&mut self, layer: BTreeMap<String, Located>) {
        for key in self.keys.iter().filter(|key| key.secret) {
            let (plain, file) = (key.path.clone(), file_form(&key.path));
            match (layer.get(&plain), layer.get(&file)) {
                (Some(_), Some(located)) => self.faults.push(Fault::BothForms {
                    key: plain,
                    origin: located.origin.clone(),
                }),
                (Some(_), None) => drop(self.values.remove(&file)),
                (None, Some(_)) => drop(self.values.remove(&plain)),
                (None, None) => {}
            }
        }
        self.values.extend(layer);
    }

    /// Replaces each `KEY_file` with `KEY` and the content of the file that it names.
    fn secret_files(&mut self) {
        for key in self.keys.iter().filter(|key| key.secret) {
            let Some(located) = self.values.remove(&file_form(&key.path)) else {
                continue;
            };
            let text = match located.raw {
                Raw::Toml(Value::String(text)) | Raw::Text(text) => text,
                Raw::Toml(_) => {
                    self.faults.push(Fault::Invalid {
                        key: file_form(&key.path),
                        value: None,
                        origin: located.origin,
                        rule: "a path",
                        advice: None,
                    });
                    continue;
                }
            };
            if text.contains("://") {
                self.faults.push(Fault::Invalid {
                    key: file_form(&key.path),
                    value: None,
                    origin: located.origin,
                    rule: "the path of a file that holds the URL, not the URL itself",
                    advice: None,
                });
                continue;
            }
            if text.trim().is_empty() {
                self.faults.push(Fault::EmptySecret {
                    key: file_form(&key.path),
                    origin: located.origin,
                });
                continue;
            }
            let path = PathBuf::from(text);
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let raw = Raw::Text(text.trim_end_matches(['\r', '\n']).into());
                    let origin = Origin::SecretFile(path);
                    self.values
                        .insert(key.path.clone(), Located { raw, origin });
                }
                Err(source) => self.faults.push(Fault::SecretFile {
                    key: key.path.clone(),
                    origin: located.origin,
                    path,
                    source,
                }),
            }
        }
    }

    fn knows(&self, path: &str) -> bool {
        self.keys.iter().any(|key| {
            key.path == path || key.secret && path.strip_suffix("_file") == Some(&key.path)
        })
    }

    fn is_section(&self, path: &str) -> bool {
        self.keys.iter().any(|key| {
            key.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    fn unknown(&mut self, key: String, origin: &Origin) {
        let known = self.keys.iter().map(|key| key.path.as_str());
        let nearest = nearest(&key, known).map(str::to_owned);
        self.faults.push(Fault::UnknownKey {
            key,
            origin: origin.clone(),
            nearest,
        });
    }
}

fn file_form(path: &str) -> String {
    format!("{path}_file")
}

/// The known word that is most similar to `unknown`, if the similarity is high enough.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::jaro_winkler(unknown, word), word))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}
