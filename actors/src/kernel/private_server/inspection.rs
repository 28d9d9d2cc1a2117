//! Whether a private server could start, found out without starting it and without any change.
//!
//! It makes the decisions of the start: the user, the data folder's owner, the programs that fit the data.
//! Not found out: whether the disk has space, and whether memory can be reserved.

use std::path::{Path, PathBuf};

use super::config::PrivateServerConfig;
use super::data_dir::DataDir;
use super::error::PrivateServerError;
use super::kind::{Programs, ServerKind};
use super::run_as::RunAs;

/// What a private server would start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The user that it would run as.
    pub user: String,
    /// The folder of its programs.
    pub programs: PathBuf,
    /// The first line that its server program prints for `--version`.
    pub version: String,
}

impl ServerKind {
    /// Finds out what a server with `config` would start with. Runs the programs found with
    /// `--version`. Must be called in the runtime of an actor's thread.
    ///
    /// # Errors
    /// Why it could not start.
    pub async fn inspect(
        &self,
        config: &PrivateServerConfig,
    ) -> Result<Inspection, PrivateServerError> {
        let run_as = RunAs::choose(self.user, config.user.as_deref(), &config.folder)?;
        let user = run_as.name.clone();
        let data_dir = DataDir::inspect(self.name, &config.folder, run_as)?;
        let Programs { folder, version } = (self.find)(&data_dir, &config.search).await?;
        Ok(Inspection {
            user,
            programs: folder,
            version,
        })
    }

    /// Checks that a server with its data in `folder` could run as the user of the settings. Starts nothing.
    ///
    /// # Errors
    /// There is no such user, or the server must not or cannot run as this one.
    pub fn check_user(&self, user: &str, folder: &Path) -> Result<(), PrivateServerError> {
        RunAs::choose(self.user, Some(user), folder).map(drop)
    }

    /// The product's name, for messages to the operator.
    pub fn product(&self) -> &'static str {
        self.product
    }
}
