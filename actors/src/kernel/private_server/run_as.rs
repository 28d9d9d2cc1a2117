//! Which user a private server runs as.
//!
//! Never root: PostgreSQL refuses that, and an attacker who takes over a server of ours should get
//! no more than that server.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::PrivateServerError;
use crate::kernel::process::ProcessSpec;

/// The user that a private server runs as, and that its data belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether that is another user than ours.
    pub(crate) is_other: bool,
}

impl RunAs {
    /// The user for `what`. A server that is not root has only its own. Root's choice is the
    /// setting, else who owns the data already, else the one that packages make (`usual`), else
    /// `nobody`.
    pub(crate) fn choose(
        what: &'static str,
        setting: Option<&str>,
        data: &Path,
        usual: &str,
    ) -> Result<Self, PrivateServerError> {
        let us = Uid::effective();
        if let Some(name) = setting {
            let Some(user) = by_name(name) else {
                let why = format!("there is no user {name}");
                return Err(refused(what, why, "name one that exists"));
            };
            if user.uid.is_root() {
                let why = "the settings say root".to_owned();
                return Err(refused(what, why, "name a user without privileges"));
            }
            if !us.is_root() && user.uid != us {
                let why = format!("only root can run it as {name}");
                return Err(refused(what, why, "leave the user out of the settings"));
            }
            return Ok(Self::of(&user, us));
        }
        if !us.is_root() {
            let gid = nix::unistd::Gid::effective().as_raw();
            let name = User::from_uid(us).ok().flatten().map(|user| user.name);
            return Ok(Self {
                name: name.unwrap_or_else(|| us.to_string()),
                uid: us.as_raw(),
                gid,
                is_other: false,
            });
        }
        let owner = data.metadata().ok().map(|data| Uid::from_raw(data.uid()));
        let owner = owner.filter(|owner| !owner.is_root());
        let user = owner
            .and_then(|owner| User::from_uid(owner).ok().flatten())
            .or_else(|| by_name(usual))
            .or_else(|| by_name("nobody"));
        match user.filter(|user| !user.uid.is_root()) {
            Some(user) => Ok(Self::of(&user, us)),
            None => {
                let why = format!("neither {usual} nor nobody exists");
                Err(refused(
                    what,
                    why,
                    "create a user for it and name it in the settings",
                ))
            }
        }
    }

    fn of(user: &User, us: Uid) -> Self {
        Self {
            name: user.name.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            is_other: user.uid != us,
        }
    }

    /// Has `spec` run as this user.
    pub(crate) fn run(&self, spec: ProcessSpec) -> ProcessSpec {
        if self.is_other {
            spec.user(self.uid, self.gid)
        } else {
            spec
        }
    }

    /// Whether the folder at `path` lets this user pass, as far as its mode tells.
    fn may_pass(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|folder| {
            let bit = if folder.uid() == self.uid {
                0o100
            } else if folder.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            folder.mode() & bit != 0
        })
    }

    /// Why this user cannot get at `path`, which the system has said. The folder to blame is the
    /// first one that does not let it pass.
    pub(crate) fn shut_out(&self, path: &Path) -> PrivateServerError {
        let mut folders: Vec<_> = path.ancestors().skip(1).collect();
        folders.reverse();
        let shut = folders.into_iter().find(|folder| !self.may_pass(folder));
        let name = &self.name;
        let (culprit, remedy) = match shut {
            Some(folder) => {
                let mode = format!("chmod o+x {}", folder.display());
                let remedy = format!("run '{mode}', or choose a data folder outside of it");
                (folder, remedy)
            }
            None => (
                path,
                format!("let {name} use it, or choose another data folder"),
            ),
        };
        PrivateServerError::Folder {
            path: culprit.to_owned(),
            why: format!(
                "the user {name} may not pass through it to {}",
                path.display()
            ),
            remedy,
        }
    }
}

fn by_name(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

fn refused(what: &'static str, why: String, remedy: &str) -> PrivateServerError {
    let remedy = remedy.to_owned();
    PrivateServerError::User { what, why, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_root_and_a_setting_is_taken_at_its_word() {
        let folder = tempfile::tempdir().unwrap();
        let choose = |setting| RunAs::choose("test", setting, folder.path(), "no-such-user");
        let refused = choose(Some("no-such-user")).unwrap_err().to_string();
        assert!(refused.contains("no user no-such-user"), "{refused}");
        assert!(choose(Some("root")).is_err());
        let account = choose(None).unwrap();
        assert_ne!(account.uid, 0);
        if Uid::effective().is_root() {
            assert_eq!((account.name.as_str(), account.is_other), ("nobody", true));
            // Data that is there already decides.
            std::os::unix::fs::chown(folder.path(), Some(1), None).unwrap();
            assert_eq!(choose(None).unwrap().uid, 1);
            assert_eq!(choose(Some("nobody")).unwrap().name, "nobody");
        } else {
            assert!(!account.is_other);
        }
    }
}
