//! Applies changed settings while the server runs.
//!
//! On SIGHUP the files are read again. Keys marked live take their new values, which are published
//! through a watch channel. Other keys keep their values until the next start; the log names them.

use std::sync::Arc;

use tokio::sync::watch;

use super::layers::{Environment, Sources};
use super::section::{Change, Section};
use super::{Settings, SettingsError, load};

/// Reads the settings again and publishes changes.
#[derive(Debug)]
pub struct Reloader {
    sources: Sources,
    environment: Environment,
    published: watch::Sender<Arc<Settings>>,
}

/// The result of a reload.
#[derive(Debug, PartialEq, Eq)]
pub struct Reload {
    /// The keys whose new values are in force.
    pub applied: Vec<String>,
    /// The keys whose new values need a restart.
    pub restart_needed: Vec<String>,
}

impl Reloader {
    /// Starts with `settings`, which were read from `sources` and `environment`.
    pub fn new(sources: Sources, environment: Environment, settings: Settings) -> Self {
        let (published, _) = watch::channel(Arc::new(settings));
        Self {
            sources,
            environment,
            published,
        }
    }

    /// The settings in force, now and after each reload. Only live keys change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Settings>> {
        self.published.subscribe()
    }

    /// Reads the same layers again and applies the live keys.
    ///
    /// # Errors
    /// The new settings are invalid. Then all keys keep their values.
    pub fn reload(&self) -> Result<Reload, SettingsError> {
        let newer = load(&self.sources, &self.environment)?.settings;
        let current = Arc::clone(&self.published.borrow());
        let mut changes = Vec::new();
        current.changes(&newer, "", &mut changes);
        let (live, waiting): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| change.live);
        if !live.is_empty() {
            let mut adopted = Settings::clone(&current);
            adopted.adopt_live(&newer);
            // No file has this combination of new and kept values, so check it as well.
            let faults = adopted.check();
            if !faults.is_empty() {
                return Err(SettingsError(faults));
            }
            self.published.send_replace(Arc::new(adopted));
        }
        let names = |changes: Vec<Change>| changes.into_iter().map(|change| change.key).collect();
        Ok(Reload {
            applied: names(live),
            restart_needed: names(waiting),
        })
    }
}
