//! The user that a private server runs as.
//!
//! It is never root: PostgreSQL refuses to run as root, and an attacker who takes over the server must
//! not gain more than that server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, User};

use super::PrivateServerError;

/// The user that a private server runs as, and that owns its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether Headroom itself runs as another user.
    pub(crate) is_other: bool,
}

impl RunAs {
    /// Chooses the user for a server. If Headroom does not run as root, it is Headroom's own user.
    /// Otherwise it is the user of the setting, which must exist. Without a setting, it is the
    /// owner of `data` unless that is root, else the user `server` that packages create, else
    /// `nobody`.
    pub(crate) fn choose(
        server: &'static str,
        setting: Option<&str>,
        data: &Path,
    ) -> Result<Self, PrivateServerError> {
        let own = Uid::effective();
        let refused = |reason: String, remedy| PrivateServerError::User {
            server,
            reason,
            remedy,
        };
        if let Some(name) = setting {
            let Some(user) = by_name(name) else {
                let reason = format!("there is no user {name}");
                return Err(refused(reason, "name an existing user"));
            };
            if user.uid.is_root() {
                let reason = "the settings name root".to_owned();
                return Err(refused(reason, "name a user without privileges"));
            }
            if !own.is_root() && user.uid != own {
                let reason = format!("only root can run it as {name}");
                return Err(refused(reason, "remove the user from the settings"));
            }
            return Self::new(&user, own).in_namespace(server);
        }
        if !own.is_root() {
            let name = User::from_uid(own).ok().flatten().map(|user| user.name);
            return Ok(Self {
                name: name.unwrap_or_else(|| own.to_string()),
                uid: own.as_raw(),
                gid: Gid::effective().as_raw(),
                is_other: false,
            });
        }
        let owner = data.metadata().ok().map(|data| Uid::from_raw(data.uid()));
        let owner = owner.filter(|owner| !owner.is_root());
        let user = owner
            .and_then(|owner| User::from_uid(owner).ok().flatten())
            .or_else(|| by_name(server))
            .or_else(|| by_name("nobody"))
            .filter(|user| !user.uid.is_root());
        let user = user.ok_or_else(|| {
            let reason = format!("there is neither a user {server} nor nobody");
            refused(reason, "create a user and name it in the settings")
        })?;
        Self::new(&user, own).in_namespace(server)
    }

    fn new(user: &User, own: Uid) -> Self {
        Self {
            name: user.name.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            is_other: user.uid != own,
        }
    }

    /// Refuses another user that this process's user namespace does not have: the system calls would fail with "invalid
    /// argument".
    fn in_namespace(self, server: &'static str) -> Result<Self, PrivateServerError> {
        let has = |map, id| fs::read_to_string(map).map_or(true, |map| is_mapped(&map, id));
        let is_there = has("/proc/self/uid_map", self.uid) && has("/proc/self/gid_map", self.gid);
        if !self.is_other || is_there {
            return Ok(self);
        }
        let Self { name, uid, gid, .. } = self;
        Err(PrivateServerError::User {
            server,
            reason: format!(
                "the user namespace, of `unshare` or a rootless container, has no user {name} (uid {uid} and gid {gid} \
                 are not both in /proc/self/uid_map and gid_map)"
            ),
            remedy: "run headroom as an ordinary user outside of the namespace, or map more users into it",
        })
    }

    /// Whether the mode of the folder at `path` lets this user pass through it.
    pub(super) fn may_pass(&self, path: &Path) -> bool {
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

    /// The error for a `path` that this user cannot access. It names the first folder above `path`
    /// that does not let the user pass.
    pub(crate) fn access_denied(&self, path: &Path) -> PrivateServerError {
        let mut folders: Vec<_> = path.ancestors().skip(1).collect();
        folders.reverse();
        let closed = folders.into_iter().find(|folder| !self.may_pass(folder));
        let name = &self.name;
        let remedy = match closed {
            Some(folder) => format!(
                "run 'chmod o+x {}', or choose a data folder outside of it",
                folder.display()
            ),
            None => format!("give {name} access to it, or choose another data folder"),
        };
        PrivateServerError::Folder {
            path: closed.unwrap_or(path).to_owned(),
            reason: format!(
                "the user {name} may not pass through it to {}",
                path.display()
            ),
            remedy,
        }
    }
}

/// Whether a map of a user namespace has `id`. Its lines are: the first id inside, the first one outside, how many.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        match numbers[..] {
            [first, _, count] => (first..first.saturating_add(count)).contains(&id.into()),
            _ => false,
        }
    })
}

fn by_name(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_users_of_its_map() {
        let whole = "         0          0 4294967295\n";
        let root = "         0       1000          1\n";
        let rootless = "0 1000 1\n1 100000 65536\n";
        for (map, id, expected) in [
            (whole, 0, true),
            (whole, 65534, true),
            (root, 0, true),
            (root, 1, false),
            (root, 1000, false),
            (rootless, 65536, true),
            (rootless, 65537, false),
            ("", 0, false),
        ] {
            assert_eq!(is_mapped(map, id), expected, "{map:?} {id}");
        }
    }

    #[test]
    fn the_user_is_never_root_and_the_setting_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let choose = |setting| RunAs::choose("no-such-server", setting, folder.path());
        let refused = choose(Some("no-such-user")).unwrap_err().to_string();
        assert!(refused.contains("no user no-such-user"), "{refused}");
        assert!(choose(Some("root")).is_err());
        let run_as = choose(None).unwrap();
        assert_ne!(run_as.uid, 0);
        if Uid::effective().is_root() {
            assert_eq!((run_as.name.as_str(), run_as.is_other), ("nobody", true));
            // The owner of existing data comes before the defaults.
            std::os::unix::fs::chown(folder.path(), Some(1), None).unwrap();
            assert_eq!(choose(None).unwrap().uid, 1);
            assert_eq!(choose(Some("nobody")).unwrap().name, "nobody");
        } else {
            assert!(!run_as.is_other);
        }
    }
}
