//! Settings: complete and checked before anything is bound, loaded or started.
//!
//! [`load`] merges the layers (see [`layers`]), gives every value its type, checks the rules over
//! several keys, and tells everything that is wrong at once. `config/default.toml` is compiled in
//! and is the reference of all keys. [`Reloader`] does the same again on SIGHUP and publishes
//! what can change in a running server.

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

/// Settings in force, and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
}

/// Reads all layers into checked settings.
///
/// # Errors
/// Everything that is wrong, one [`Fault`] each.
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
