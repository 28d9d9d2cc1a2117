//! Merges the layers of the settings.
//!
//! Order: built-in defaults < the base file < the profile's file < the environment; later layers win.
//! Values are merged key by key together with their origin, and are converted to types afterwards,
//! so that every fault can name the origin of the value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::environment::{Environment, Variable};
use super::file::{self, read_text};
use super::map;
use super::section::{Key, empty_secret, inherited_from, join};

/// The base file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "config/default.toml";

/// The reference file. It is compiled in, so a server without any file has the same defaults.
const BUILT_IN: &str = include_str!("../../config/default.toml");

/// The known chains, as `chains` in a settings file.
const CHAINS: &str = include_str!("../../config/chains.toml");

/// Which files to read. On the command line, the fields' comments are their help.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Sources {
    /// Base settings file [default: config/default.toml if it exists, else built-in defaults]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also read NAME.toml in the base file's folder; its values take precedence
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
}

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The defaults compiled into the binary.
    BuiltIn,
    /// A configuration file, or a file that contains one secret.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl Origin {
    fn is_in_layer_of(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Variable(_), Self::Variable(_)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in defaults"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// A value of a layer, before it is converted to its type, and its origin. The environment and secret
/// files have text only.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
    /// The number of its layer. Later layers have greater ones.
    layer: usize,
}

/// Merged values by key.
pub(crate) type Values = BTreeMap<String, Located>;

/// A known word is suggested only if its similarity is at least this (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.8;

/// The layers read so far.
pub(crate) struct Layers<'a> {
    keys: &'a [Key],
    /// The number of the current layer.
    layer: usize,
    pub(crate) values: Values,
    pub(crate) faults: Vec<String>,
    /// What has no effect, and does not prevent the start.
    pub(crate) warnings: Vec<String>,
}

impl<'a> Layers<'a> {
    /// Reads every layer.
    pub(crate) fn read(keys: &'a [Key], sources: &Sources, environment: &Environment) -> Self {
        let mut layers = Self {
            keys,
            layer: 0,
            values: Values::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        layers.text("chains", CHAINS, &Origin::BuiltIn);
        layers.text("", BUILT_IN, &Origin::BuiltIn);
        let base = sources.config.as_deref().unwrap_or(DEFAULT_FILE.as_ref());
        layers.file(base, sources.config.is_some());
        if let Some(profile) = &sources.profile {
            layers.profile(profile, base);
        }
        layers.environment(environment);
        layers.bound_by_maxima();
        layers.secret_files();
        layers
    }

    fn profile(&mut self, profile: &str, base: &Path) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if profile.is_empty() || !profile.chars().all(plain) {
            self.faults.push(format!(
                "profile {profile:?}: must be made of letters, digits, '-' and '_'"
            ));
            return;
        }
        self.file(&base.with_file_name(format!("{profile}.toml")), true);
    }

    fn file(&mut self, path: &Path, required: bool) {
        match read_text(path, file::WITHIN) {
            Ok(text) => self.text("", &text, &Origin::File(path.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
            Err(error) => {
                let path = path.display();
                self.faults.push(format!("{path}: cannot be read: {error}"));
            }
        }
    }

    /// Adds a layer: `text` as the section `prefix`.
    fn text(&mut self, prefix: &str, text: &str, origin: &Origin) {
        self.layer += 1;
        match toml::from_str(text) {
            Ok(table) => self.table(prefix, table, origin),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start.min(text.len()));
                let breaks = text.bytes().take(start).filter(|byte| *byte == b'\n');
                let line = 1 + breaks.count();
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                self.faults
                    .push(format!("{origin}: line {line}: {message}"));
            }
        }
    }

    fn table(&mut self, prefix: &str, table: Table, origin: &Origin) {
        for (name, value) in table {
            let path = join(prefix, &name);
            match value {
                Value::Table(inner) if self.is_section(&path) => self.table(&path, inner, origin),
                Value::Array(list) if self.is_map(&path) => self.list(&path, list, origin),
                value => self.put(path, value, origin.clone()),
            }
        }
    }

    /// Adds the sections of a map that are written as a list. The key `name` of each is its name.
    fn list(&mut self, path: &str, list: Vec<Value>, origin: &Origin) {
        let mut names = BTreeSet::new();
        for value in list {
            let Value::Table(mut section) = value else {
                self.faults
                    .push(format!("{origin}: {path} must be a list of tables"));
                return;
            };
            let name = match section.remove("name") {
                Some(Value::String(name)) if map::is_name(&name) => name,
                Some(Value::String(name)) => {
                    self.faults.push(format!(
                        "{origin}: {path}: name = {name:?} must be {}",
                        map::NAME
                    ));
                    continue;
                }
                _ => {
                    self.faults
                        .push(format!("{origin}: each entry of {path} needs a name"));
                    continue;
                }
            };
            self.table(&join(path, &name), section, origin);
            if let Some(twice) = names.replace(name) {
                self.faults
                    .push(format!("{origin}: {path} has {twice} twice"));
            }
        }
    }

    fn environment(&mut self, environment: &Environment) {
        self.layer += 1;
        for (name, value) in environment {
            match Variable::read(self.keys, name, value) {
                Variable::Setting { name, path, text } => {
                    let path = self.with_names_of_variable(path);
                    let origin = Origin::Variable(name.to_owned());
                    self.put(path, Value::String(text.to_owned()), origin);
                }
                Variable::Fault(fault) => self.faults.push(fault),
                Variable::Unknown(warning) => self.warnings.push(warning),
                Variable::Other => {}
            }
        }
    }

    /// Puts a value over those of lower layers. A secret and the name of its file are two forms of one
    /// key: the form in the higher layer replaces the form in the lower one.
    fn put(&mut self, path: String, value: Value, origin: Origin) {
        let mut keys = self.keys.iter();
        let key = keys.find(|key| key.is_at(&path) || key.secret_of(&path).is_some());
        let Some(key) = key else {
            self.faults.push(self.unknown(&path, &origin));
            return;
        };
        if key.secret {
            let secret = key.secret_of(&path);
            let other = secret.map_or_else(|| file_form(&path), str::to_owned);
            let replaced = self.values.remove(&other);
            if replaced.is_some_and(|other| other.origin.is_in_layer_of(&origin)) {
                let key = secret.unwrap_or(&path);
                self.faults.push(format!(
                    "{origin}: {key} and {key}_file are both set; keep one of them"
                ));
            }
        }
        let layer = self.layer;
        let located = Located {
            value,
            origin,
            layer,
        };
        self.values.insert(path, located);
    }

    /// The most connections of a pool also bound what lower layers say of it: who sets only these need not
    /// know the rest. Pools come before the one whose values they inherit.
    fn bound_by_maxima(&mut self) {
        for key in self.keys.iter().rev() {
            let (Some(section), Some(max)) = (
                key.path.strip_suffix(".connections_max"),
                self.values.get(&key.path),
            ) else {
                continue;
            };
            let (value, origin, layer) = (max.value.clone(), max.origin.clone(), max.layer);
            for name in ["connections_min", "shared_max"] {
                let path = join(section, name);
                let base = inherited_from(&path);
                let own = self.values.get(&path);
                let lower = own.or_else(|| self.values.get(&base?));
                if lower.is_some_and(|lower| lower.layer < layer && is_above(&lower.value, &value))
                {
                    let (value, origin) = (value.clone(), origin.clone());
                    let bounded = Located {
                        value,
                        origin,
                        layer,
                    };
                    self.values.insert(path, bounded);
                }
            }
        }
    }

    /// Replaces each `KEY_file` with `KEY` and the content of the file that it names.
    fn secret_files(&mut self) {
        let mut named = Vec::new();
        for path in self.values.keys() {
            let mut keys = self.keys.iter();
            if let Some(secret) = keys.find_map(|key| key.secret_of(path)) {
                named.push((path.clone(), secret.to_owned()));
            }
        }
        for (path, secret) in named {
            let Some(located) = self.values.remove(&path) else {
                continue;
            };
            match read_secret(&path, &located) {
                Ok(value) => drop(self.values.insert(secret, value)),
                Err(fault) => self.faults.push(fault),
            }
        }
    }

    fn is_section(&self, path: &str) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|key| map::after(&key.path, path).is_some())
    }

    /// Whether the sections at `path` have names that the operator gives.
    fn is_map(&self, path: &str) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|key| map::after(&key.path, path).is_some_and(|rest| rest.starts_with("*.")))
    }

    /// The path that the name of a variable stands for: names cannot have a `-` there, and have a `_` in its place.
    fn with_names_of_variable(&self, path: String) -> String {
        let secrets = self.keys.iter().filter(|key| key.secret);
        let file = path.strip_suffix("_file");
        let file = file.and_then(|path| map::named_by_variable(secrets, path));
        file.map(|path| file_form(&path))
            .or_else(|| map::named_by_variable(self.keys.iter(), &path))
            .unwrap_or(path)
    }

    /// The fault of a value at a path that is no key.
    fn unknown(&self, path: &str, origin: &Origin) -> String {
        if self.is_section(path) {
            return format!("{origin}: {path} is a section and cannot have a value of its own");
        }
        if let Some(name) = map::wrong_name(self.keys, path) {
            return format!("{origin}: {path}: the name {name:?} must be {}", map::NAME);
        }
        let known = self.keys.iter().map(|key| map::like(&key.path, path));
        let known: Vec<_> = known.collect();
        let nearest = nearest(path, known.iter().map(String::as_str));
        let advice = nearest.map_or(String::new(), |key| format!("; did you mean {key}?"));
        format!("{origin}: unknown key {path}{advice}")
    }
}

/// Whether both are numbers above zero, and the first one is the greater one.
fn is_above(value: &Value, max: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_integer(),
    };
    let numbers = number(value).zip(number(max));
    numbers.is_some_and(|(number, max)| max > 0 && number > max)
}

/// The key that has the name of a file with the secret at `path`.
fn file_form(path: &str) -> String {
    format!("{path}_file")
}

/// The secret in the file that `named`, the value of `key`, has the path of.
fn read_secret(key: &str, named: &Located) -> Result<Located, String> {
    let origin = &named.origin;
    let Some(path) = named.value.as_str() else {
        return Err(format!("{origin}: {key} must be a path"));
    };
    if path.contains("://") {
        return Err(format!(
            "{origin}: {key} must be the path of a file that holds the URL, not the URL itself"
        ));
    }
    if path.trim().is_empty() {
        return Err(empty_secret(key, origin));
    }
    match read_text(Path::new(path), file::WITHIN) {
        Ok(text) => Ok(Located {
            value: text.trim_end_matches(['\r', '\n']).into(),
            origin: Origin::File(path.into()),
            layer: named.layer,
        }),
        Err(error) => Err(format!(
            "{origin}: {key} names {path}, which cannot be read: {error}"
        )),
    }
}

/// The known word that is most similar to `unknown`, if the similarity is high enough.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::jaro_winkler(unknown, word), word))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}
