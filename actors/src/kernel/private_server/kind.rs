//! What distinguishes one kind of private server from another.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use nix::sys::signal::Signal;

use super::config::Socket;
use super::data_dir::DataDir;
use super::error::PrivateServerError;
use super::programs::SearchPath;
use crate::kernel::ProcessExit;
use crate::kernel::process::ProcessSpec;

/// One kind of private server: PostgreSQL, or Redis for one purpose.
pub struct ServerKind {
    /// Its name in logs, errors and the memory ledger.
    pub(crate) name: &'static str,
    /// The name of its supervisor below the supervisor of its module.
    pub(crate) child: &'static str,
    /// The user that packages create for it.
    pub(crate) user: &'static str,
    /// The product's name, for messages to the operator.
    pub(crate) product: &'static str,
    /// The programs that it needs. The first one is the server.
    pub(crate) programs: &'static [&'static str],
    /// The names of its packages on Debian and in Homebrew.
    pub(crate) packages: [&'static str; 2],
    /// What it needs when it has just started, in bytes.
    pub(crate) estimated_bytes: u64,
    /// The folders below the data folder that its processes may work in. They may also work in the
    /// data folder itself.
    pub(crate) working_folders: &'static [&'static str],
    /// The signals that end an orphan, gentlest first. SIGKILL follows without being listed.
    pub(crate) end_signals: &'static [Signal],
    /// Finds the programs that fit the data in a folder.
    pub(crate) find: for<'a> fn(
        &'a DataDir,
        &'a SearchPath,
    ) -> BoxFuture<'a, Result<Programs, PrivateServerError>>,
    /// Finds the programs, creates the data and writes the settings: everything before the start.
    /// No process works in the data folder meanwhile.
    pub(crate) prepare: fn(
        Arc<DataDir>,
        SearchPath,
    ) -> BoxFuture<'static, Result<PreparedServer, PrivateServerError>>,
}

impl ServerKind {
    /// The first folder of `search` that has all programs, whose server program runs, and that
    /// `accepts` accepts. `accepts` gets the folder and the first line that the server program
    /// prints for `--version`.
    ///
    /// # Errors
    /// No folder was accepted, or a program could not be started.
    pub(crate) async fn find_programs(
        &self,
        search: &SearchPath,
        data_dir: &DataDir,
        mut accepts: impl FnMut(&Path, &str) -> bool,
    ) -> Result<Programs, PrivateServerError> {
        for folder in search.with_all(self.programs) {
            let spec = data_dir
                .program(&folder.join(self.programs[0]))
                .argument("--version");
            let (exit, lines) = data_dir.run(&spec, Stdio::null()).await?;
            let line = lines.first().map_or("", String::as_str);
            if exit == ProcessExit::Code(0) && accepts(folder, line) {
                return Ok(Programs {
                    folder: folder.to_owned(),
                    version: line.to_owned(),
                });
            }
        }
        let [debian, homebrew] = self.packages;
        Err(PrivateServerError::Missing {
            product: self.product,
            programs: self.programs.join(", "),
            searched: search.0.clone(),
            remedy: format!(
                "install it ('apt-get install {debian}' on Debian and Ubuntu, 'brew install \
                 {homebrew}' on macOS), or configure the URL of another server"
            ),
        })
    }
}

/// Installed programs.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Their folder.
    pub(crate) folder: PathBuf,
    /// The first line that the server program prints for `--version`.
    pub(crate) version: String,
}

/// A server that is ready to be started.
pub(crate) struct PreparedServer {
    pub(crate) process: ProcessSpec,
    pub(crate) socket: Socket,
}
