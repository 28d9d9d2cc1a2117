//! The settings. They are complete and checked before anything is bound, loaded or started.
//!
//! [`load`] merges the layers (see [`layers`]), converts every value to its type, checks the rules over
//! several keys, and reports all faults together. `config/default.toml` is the reference of all keys and
//! is compiled in. On SIGHUP, [`Reloader`] repeats this and publishes the keys that can change at run
//! time.

pub mod chains;
mod environment;
mod file;
pub mod layers;
pub mod log_filter;
pub mod map;
mod redis;
mod reload;
pub mod secrets;
mod section;
pub mod sections;
mod show;
#[cfg(test)]
mod tests;
pub mod uploads;
pub mod values;

use thiserror::Error;

pub use environment::Environment;
pub(crate) use environment::begins_like_ours;
pub use layers::Sources;
pub use reload::{Reload, Reloader};
pub use sections::Settings;

use layers::{Layers, Values};
use section::{Key, MASK, Node, Source};

/// The settings in force.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What was set and has no effect, one line each.
    pub warnings: Vec<String>,
    /// The values that layers set, with their origins. Secrets are masked.
    values: Values,
    /// The keys, in the order of the sections.
    keys: Vec<Key>,
}

/// All faults in the settings, one line each. A line names the key, the origin of its value, and the rule;
/// it never contains the value of a secret.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// Reads all layers and checks the settings.
///
/// # Errors
/// All faults that were found.
pub fn load(sources: &Sources, environment: &Environment) -> Result<Loaded, SettingsError> {
    let known = keys();
    let layers = Layers::read(&known, sources, environment);
    let mut source = Source {
        values: layers.values,
        faults: layers.faults,
        ..Source::default()
    };
    let settings = Settings::read("", &mut source);
    chains::explain_unknown(&mut source);
    let Some(mut settings) = settings.filter(|_| source.faults.is_empty()) else {
        return Err(SettingsError(source.faults));
    };
    settings.check(source.rules)?;
    let (mut values, mut keys) = (source.values, source.keys);
    chains::forget_unused(&mut settings.chains, &mut keys);
    for key in keys.iter().filter(|key| key.secret) {
        if let Some(located) = values.get_mut(&key.path) {
            located.value = MASK.into();
        }
    }
    Ok(Loaded {
        settings,
        warnings: layers.warnings,
        values,
        keys,
    })
}

/// All keys, in the order of the sections.
fn keys() -> Vec<Key> {
    let mut source = Source {
        lists_keys: true,
        ..Source::default()
    };
    Settings::read("", &mut source);
    source.keys
}
