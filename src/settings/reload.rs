//! Applies changed settings while the server runs.
//!
//! On SIGHUP the files are read again. Keys marked live take their new values, which are published
//! through a watch channel. Other keys keep their values until the next start; the log names them.

use std::sync::Arc;

use tokio::sync::watch;

use super::environment::Environment;
use super::layers::Sources;
use super::section::{Node, Rules};
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
        let adopted = current.with_live_keys_of(&newer);
        let (mut applied, mut restart_needed) = (Vec::new(), Vec::new());
        current.changes(&adopted, "", &mut applied);
        adopted.changes(&newer, "", &mut restart_needed);
        if !applied.is_empty() {
            // No file has this combination of new and kept values, so check it as well.
            adopted.check(Rules::default())?;
            self.published.send_replace(Arc::new(adopted));
        }
        Ok(Reload {
            applied,
            restart_needed,
        })
    }
}
