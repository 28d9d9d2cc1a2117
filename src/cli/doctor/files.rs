//! The models folder with the models' settings, the data folder with its lock, and that of uploads.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use headroom_actors::kernel::regular_file;
use headroom_actors::model::{Misplaced, Scan, scan};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Uid, User};

use super::check::{Check, Group, Outcome};
use crate::cli::output::{bytes, count};
use crate::settings::Settings;
use crate::startup;
use crate::startup::data_dir::{lock_fault, server_of};
use crate::startup::folder::{nearest, why_not_writable};

const GROUP: Group = Group::Files;

/// A private PostgreSQL writes its log in pieces of 16 MiB, and needs room for the next one.
const FREE_BYTES_LEAST: u64 = 32 << 20;

pub(super) fn files(settings: &Settings) -> Vec<Check> {
    let mut checks = models(&settings.models.dir);
    checks.push(data(&settings.data.dir));
    checks.push(uploads(settings));
    checks
}

fn models(dir: &Path) -> Vec<Check> {
    let name = "models.dir";
    let shown = dir.display();
    if let Err(error) = fs::metadata(dir)
        && error.kind() == io::ErrorKind::NotFound
    {
        let check = Check::warning(GROUP, name, format!("{shown} does not exist"))
            .would_fail("there are no models")
            .remedy(format!("put models at {shown}/<name>/<version>/model.pt"));
        return vec![check];
    }
    let Scan {
        files: found,
        misplaced,
        ..
    } = match scan(dir) {
        Ok(found) => found,
        Err(error) => {
            let check = Check::failure(GROUP, name, format!("{shown}: {error}"))
                .would_fail("no model can be found or loaded")
                .remedy("let the server's user read and enter the folder, or set models.dir");
            return vec![check];
        }
    };
    let size = found.iter().map(|file| file.bytes).sum();
    let versions = count(found.len(), "version", "versions");
    let summary = format!("{shown}: {versions} of models, {}", bytes(size));
    let mut checks = vec![match found.is_empty() {
        true => Check::warning(GROUP, name, format!("{shown} has no models"))
            .would_fail("there is nothing to load")
            .remedy(format!("put models at {shown}/<name>/<version>/model.pt")),
        false => Check::ok(GROUP, name, summary),
    }];
    for file in found {
        let resource = file.resource();
        if let Err(error) = &file.settings {
            let check = Check::failure(GROUP, &resource, error.to_string())
                .would_fail(format!("{resource} cannot be loaded"))
                .remedy(format!(
                    "correct {}",
                    file.path.with_file_name("model.toml").display()
                ));
            checks.push(check);
        } else if let Err(error) = regular_file::open(&file.path) {
            let check = Check::failure(GROUP, &resource, format!("model.pt: {error}"))
                .would_fail(format!("{resource} cannot be loaded"))
                .remedy(format!(
                    "let the server's user read {}",
                    file.path.display()
                ));
            checks.push(check);
        }
    }
    for Misplaced { path, reason, .. } in misplaced {
        let check = Check::warning(GROUP, name, format!("{path}: {reason}"))
            .would_fail("it is not used")
            .remedy(format!("move it, or remove it from {shown}"));
        checks.push(check);
    }
    checks
}

fn data(dir: &Path) -> Check {
    let folder = Folder {
        name: "data.dir",
        dir,
        free_least: FREE_BYTES_LEAST,
        would_fail: "private servers do not start, and nothing can be kept on disk",
        would_fail_when_full: "private servers refuse writes, and histories are lost at a restart",
    };
    let check = folder.check();
    if check.outcome != Outcome::Ok {
        return check;
    }
    if let Some((found, remedy)) = lock_fault(dir) {
        return Check::failure(GROUP, folder.name, found)
            .would_fail("`headroom serve` does not start if it needs the folder")
            .remedy(remedy);
    }
    match server_of(dir) {
        Some(server) => {
            let found = format!("{}; {server} uses it, so no other one can", check.found);
            Check::ok(GROUP, folder.name, found)
        }
        None => check,
    }
}

fn uploads(settings: &Settings) -> Check {
    let folder = Folder {
        name: "uploads.dir",
        dir: &startup::uploads::dir(settings),
        free_least: settings.uploads.disk_free_min.as_u64(),
        would_fail: "uploads get a 503",
        would_fail_when_full: "uploads get a 507: uploads.disk_free_min is to be left free",
    };
    folder.check()
}

/// A folder that the server writes to.
struct Folder<'a> {
    name: &'static str,
    dir: &'a Path,
    /// The bytes that must be free.
    free_least: u64,
    would_fail: &'static str,
    would_fail_when_full: &'static str,
}

impl Folder<'_> {
    /// It must be there and writable, or it must be possible to make it.
    fn check(&self) -> Check {
        let Self {
            name,
            dir,
            would_fail,
            ..
        } = *self;
        let shown = dir.display();
        let (existing, is_new) = nearest(dir);
        let metadata = match fs::metadata(&existing) {
            Ok(metadata) => metadata,
            Err(error) => {
                return Check::failure(GROUP, name, format!("{}: {error}", existing.display()))
                    .would_fail(would_fail)
                    .remedy(format!(
                        "set {name} to a folder that the server's user can write to"
                    ));
            }
        };
        let owner = Uid::from_raw(metadata.uid());
        let owner = match User::from_uid(owner) {
            Ok(Some(user)) => user.name,
            _ => owner.to_string(),
        };
        let place = existing.display();
        let fault = why_not_writable(&existing);
        match fault {
            Some(fault) => Check::failure(GROUP, name, format!("{place} (owner {owner}): {fault}"))
                .would_fail(would_fail)
                .remedy(format!(
                    "make {place} writable for the server's user, or set {name}"
                )),
            None => match free_bytes(&existing) {
                Some(free) if free < self.free_least => {
                    let found = format!("{shown} has only {} of free space", bytes(free));
                    Check::failure(GROUP, name, found)
                        .would_fail(self.would_fail_when_full)
                        .remedy(format!(
                            "free space on its file system, or set {name} to another one"
                        ))
                }
                _ if is_new => Check::ok(
                    GROUP,
                    name,
                    format!("{shown} will be made in {place} (owner {owner})"),
                ),
                _ => Check::ok(GROUP, name, format!("{shown} is writable (owner {owner})")),
            },
        }
    }
}

/// Bytes that the file system of `dir` has left for this user.
fn free_bytes(dir: &Path) -> Option<u64> {
    let found = statvfs(dir).ok()?;
    Some(
        found
            .blocks_available()
            .saturating_mul(found.fragment_size()),
    )
}
