//! The search for the programs of a private server.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The folders to search for programs, in order.
#[derive(Debug, Clone, Default)]
pub struct SearchPath(pub Vec<PathBuf>);

impl SearchPath {
    /// The folders of `path`, a value of PATH, and the folders outside of PATH where packages install
    /// PostgreSQL and Redis, newest version first.
    pub fn installed(path: &OsStr) -> Self {
        let mut folders: Vec<PathBuf> = std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .collect();
        folders.extend(versions(Path::new("/usr/lib/postgresql"), ""));
        folders.extend(["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from));
        folders.push("/usr/local/pgsql/bin".into());
        folders.extend(versions(Path::new("/usr"), "pgsql-"));
        folders.push("/opt/homebrew/bin".into());
        let mut seen = HashSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        Self(folders)
    }

    /// The folders that hold all of `programs`.
    pub(super) fn with_all(&self, programs: &[&str]) -> impl Iterator<Item = &Path> {
        let folders = self.0.iter().map(PathBuf::as_path);
        folders.filter(|folder| programs.iter().all(|name| is_program(&folder.join(name))))
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The `bin` folders below the folders in `parent` that are named `prefix` and a version, newest
/// version first.
fn versions(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
            Some((numbers.ok()?, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(version, _)| Reverse(version.clone()));
    found.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn versions_are_sorted_newest_first_and_other_folders_are_left_out() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "16", "x", "pgsql-17"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let found = versions(parent.path(), "");
        let expected = ["16", "15", "9.6"].map(|name| parent.path().join(name).join("bin"));
        assert_eq!(found, expected);
        let found = versions(parent.path(), "pgsql-");
        assert_eq!(found, [parent.path().join("pgsql-17").join("bin")]);
    }

    #[test]
    fn only_folders_with_every_program_count() {
        let parent = tempfile::tempdir().unwrap();
        let folders = ["a", "b"].map(|name| parent.path().join(name));
        for (folder, mode_of_two) in folders.iter().zip([0o644, 0o755]) {
            std::fs::create_dir(folder).unwrap();
            for (program, mode) in [("one", 0o755), ("two", mode_of_two)] {
                std::fs::write(folder.join(program), "").unwrap();
                std::fs::set_permissions(folder.join(program), Permissions::from_mode(mode))
                    .unwrap();
            }
        }
        let search = SearchPath(folders.to_vec());
        let found: Vec<_> = search.with_all(&["one", "two"]).collect();
        assert_eq!(found, [&folders[1]]);
    }
}
