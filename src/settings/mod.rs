//! The settings. They are complete and checked before anything is bound, loaded or started.
//!
//! [`load`] merges the layers (see [`layers`]), converts every value to its type, checks the rules over
//! several keys, and reports all faults together. `config/default.toml` is the reference of all keys and
//! is compiled in. On SIGHUP, [`Reloader`] repeats this and publishes the keys that can change at run
//! time.

pub mod error;
pub mod layers;
pub mod log_filter;
mod redis;
mod reload;
pub mod secrets;
mod section;
pub mod sections;
mod show;
#[cfg(test)]
mod tests;
pub mod values;

use std::collections::BTreeMap;

pub use error::{Fault, Origin, SettingsError};
pub use layers::{Environment, Sources};
pub use reload::{Reload, Reloader};
pub use section::Change;
pub use sections::Settings;

use layers::Layers;
use section::{Key, Section, Source};

/// The settings in force, and the origin of each value.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

/// Reads all layers and checks the settings.
///
/// # Errors
/// All faults that were found.
pub fn load(sources: &Sources, environment: &Environment) -> Result<Loaded, SettingsError> {
    let keys = keys();
    let (values, faults) = Layers::new(&keys).read(sources, environment);
    let mut source = Source {
        values: &values,
        faults,
    };
    let settings = Settings::read("", &mut source);
    let mut faults = source.faults;
    match settings {
        Some(settings) if faults.is_empty() => {
            faults = settings.check();
            if faults.is_empty() {
                let origins = values
                    .into_iter()
                    .map(|(key, located)| (key, located.origin))
                    .collect();
                return Ok(Loaded { settings, origins });
            }
        }
        _ => {}
    }
    Err(SettingsError(faults))
}

fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    Settings::keys("", &mut keys);
    keys
}
