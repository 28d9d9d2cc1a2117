//! Taking over changed settings in a running server.
//!
//! The files are read again on SIGHUP. Keys that can change do, and are published through a watch
//! channel: readers see the newest value, and a slow one misses nothing that matters. The others
//! keep their value until the next start and are named, so that nobody waits for them in vain.

use std::sync::Arc;

use tokio::sync::watch;

use super::layers::{Environment, Sources};
use super::section::{Change, Section};
use super::{Settings, SettingsError, load};

/// Reads settings again and publishes what changed.
#[derive(Debug)]
pub struct Reloader {
    sources: Sources,
    environment: Environment,
    published: watch::Sender<Arc<Settings>>,
}

/// What a reload did.
#[derive(Debug, PartialEq, Eq)]
pub struct Reload {
    /// Keys whose new value is in force.
    pub applied: Vec<String>,
    /// Keys whose new value waits for a restart.
    pub restart_needed: Vec<String>,
}

impl Reloader {
    /// Publishes `settings`, which were read from `sources` and `environment`.
    pub fn new(sources: Sources, environment: Environment, settings: Settings) -> Self {
        let (published, _) = watch::channel(Arc::new(settings));
        Self {
            sources,
            environment,
            published,
        }
    }

    /// The settings in force, now and after every reload. Only keys that can change ever do.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Settings>> {
        self.published.subscribe()
    }

    /// Reads the same layers again and takes over what can change.
    ///
    /// # Errors
    /// When the new settings are wrong: then all keep their values.
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
            // New values beside kept ones are a combination that no file holds.
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
