//! Finds what the settings ask for and this machine cannot do, before anything is bound.
//!
//! `serve` and `check-config` refuse the same with the same words. The checks are cheap and change nothing: a start takes
//! milliseconds. What may still come by itself, such as a folder that is mounted later, is a warning of `serve`; its
//! requests get a 503 until it is there. `check-config` refuses that, too.

use std::env;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use headroom_actors::kernel::private_server::ServerKind;
use headroom_actors::postgres;
use headroom_actors::redis::{self, Role};
use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use super::folder::unwritable;
use super::folder_look;
use super::{HOST_BINARY, check_budget, data_dir, host_binary, pools};
use crate::settings::Settings;
use crate::settings::sections::EmbeddedSettings;

/// What cannot work on this machine, one line each. A line names the key, what is wrong, and what to do.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub struct MachineError(pub Vec<String>);

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What cannot work until an operator changes something.
    refused: Vec<String>,
    /// What is not there, and may come.
    missing: Vec<String>,
}

impl Findings {
    /// What is not there and may come: the warnings of a start.
    ///
    /// # Errors
    /// All that was found, if something cannot work.
    pub fn warnings(self) -> Result<Vec<String>, MachineError> {
        match self.refused.is_empty() {
            true => Ok(self.missing),
            false => Err(self.error()),
        }
    }

    /// Accepts only a machine that has everything.
    ///
    /// # Errors
    /// All that was found.
    pub fn refuse_any(self) -> Result<(), MachineError> {
        match self.refused.is_empty() && self.missing.is_empty() {
            true => Ok(()),
            false => Err(self.error()),
        }
    }

    fn error(mut self) -> MachineError {
        self.refused.append(&mut self.missing);
        MachineError(self.refused)
    }
}

/// Checks this machine for a server with `settings`. Blocks while a file server that hangs is looked at, for seconds at most.
pub fn check_machine(settings: &Settings) -> Findings {
    let mut found = Findings::default();
    if let Err(error) = check_budget(settings) {
        found.refused.push(error.to_string());
    }
    found.models_dir(&settings.models.dir);
    found.host_binary(settings);
    found.data_dir(settings);
    if let Some(dir) = &settings.uploads.dir
        && let Some(fault) = unwritable("uploads.dir", dir)
    {
        found.missing.push(format!(
            "{fault}; make it writable for the server's user, or set uploads.dir to another folder; uploads get a 503 \
             until then"
        ));
    }
    found.private_servers(settings);
    found
}

impl Findings {
    fn models_dir(&mut self, dir: &Path) {
        let shown = dir.display();
        match folder_look::look(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                self.refused.push(format!(
                    "models.dir: {shown} is not a folder; set it to the folder of the models"
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.missing.push(format!(
                "models.dir: {shown} does not exist; make or mount the folder, or set models.dir; requests for models \
                 get a 503 until it is there"
            )),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.missing.push(format!(
                "models.dir: {shown} cannot be read: {error}; see to its file server, or set models.dir; requests for \
                 models get a 503 until it answers"
            )),
            Err(error) => self.missing.push(format!(
                "models.dir: {shown} cannot be read: {error}; let the server's user read and enter it, or set \
                 models.dir; requests for models get a 503 until it can"
            )),
        }
    }

    /// Only a start of the program shows whether it finds libtorch. `check-config` does that.
    fn host_binary(&mut self, settings: &Settings) {
        let path = match host_binary(&settings.models) {
            Ok(path) => found_in_path(path),
            Err(error) => return self.refused.push(error.to_string()),
        };
        let shown = path.display();
        match fs::metadata(&path) {
            Ok(found) if !found.is_file() => self.refused.push(format!(
                "models.host_binary: {shown} is not a file; set it to the program {HOST_BINARY}"
            )),
            Ok(_) => {
                if let Err(error) = access(&path, AccessFlags::X_OK) {
                    let error = error.desc();
                    self.missing.push(format!(
                        "models.host_binary: {shown} cannot be executed: {error}; make it executable for the server's \
                         user; loads of models fail until it is"
                    ));
                }
            }
            Err(error) => {
                let fault = match error.kind() {
                    io::ErrorKind::NotFound => "does not exist".to_owned(),
                    _ => format!("cannot be read: {error}"),
                };
                self.missing.push(format!(
                    "models.host_binary: {shown} {fault}; put {HOST_BINARY} there, or set models.host_binary; loads of \
                     models fail until it is there"
                ));
            }
        }
    }

    fn data_dir(&mut self, settings: &Settings) {
        let dir = &settings.data.dir;
        let is_needed = data_dir::is_needed(settings);
        if let Some(fault) = data_dir::fault(dir) {
            return match is_needed {
                true => self.refused.push(fault),
                false => self.missing.push(format!(
                    "{fault}; until then uploads get a 503, unless uploads.dir is set, and the history of optimisations \
                     ends with the server"
                )),
            };
        }
        // Private servers get the whole path in their settings, which are text.
        if is_needed
            && let Ok(path) = std::path::absolute(dir)
            && path.to_str().is_none()
        {
            self.refused.push(format!(
                "data.dir: the path {path:?} is not UTF-8; start the server in another folder, or set data.dir to an \
                 absolute path"
            ));
        }
    }

    fn private_servers(&mut self, settings: &Settings) {
        let data = &settings.data.dir;
        let (database, redis) = (&settings.postgres, &settings.redis);
        if pools::has_private_postgres(settings) {
            let folder = data.join(pools::POSTGRES_FOLDER);
            let kind = &postgres::PRIVATE_SERVER;
            self.private_server("postgres", kind, &database.embedded, &folder);
        }
        if pools::has_private_redis(settings) {
            let folder = data.join(pools::redis::folder(Role::Primary));
            let kind = redis::private_server(Role::Primary);
            self.private_server("redis", kind, &redis.embedded, &folder);
        }
    }

    /// What the settings say of a private server. Without them, its programs and user are looked for at its start.
    fn private_server(
        &mut self,
        section: &str,
        kind: &ServerKind,
        settings: &EmbeddedSettings,
        folder: &Path,
    ) {
        if let Some(user) = &settings.user
            && let Err(error) = kind.check_user(user.as_str(), folder)
        {
            self.refused
                .push(format!("{section}.embedded.user: {error}"));
        }
        if let Some(dir) = &settings.bin_dir
            && !dir.is_dir()
        {
            let shown = dir.display();
            self.missing.push(format!(
                "{section}.embedded.bin_dir: {shown} is not a folder; set it to the folder of the programs, or remove the \
                 key; requests that need {} get a 503 until it is there",
                kind.product()
            ));
        }
    }
}

/// A program without a slash is looked up in `PATH`, as at its start.
fn found_in_path(path: PathBuf) -> PathBuf {
    if path.as_os_str().as_bytes().contains(&b'/') {
        return path;
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&folders).map(|folder| folder.join(&path));
    places.find(|place| place.is_file()).unwrap_or(path)
}
