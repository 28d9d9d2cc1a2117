//! Where the programs of a private server are.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

/// Where programs are looked for, in this order.
#[derive(Debug, Clone, Default)]
pub struct SearchPath {
    folders: Vec<PathBuf>,
}

impl SearchPath {
    /// Exactly these folders.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            folders: folders.into_iter().collect(),
        }
    }

    /// The folders of `path`, a value of PATH, and those where packages put PostgreSQL and Redis
    /// without adding them to it: the newest version first.
    pub fn installed(path: &std::ffi::OsStr) -> Self {
        let mut folders: Vec<PathBuf> = std::env::split_paths(path)
            .filter(|folder| folder.is_absolute())
            .collect();
        folders.extend(versions(Path::new("/usr/lib/postgresql"), ""));
        folders.extend(["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from));
        folders.push("/usr/local/pgsql/bin".into());
        folders.extend(versions(Path::new("/usr"), "pgsql-"));
        folders.push("/opt/homebrew/bin".into());
        let mut seen = std::collections::HashSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        Self { folders }
    }

    /// The folders.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The folders that hold all of `programs`.
    pub(crate) fn with_all<'a>(
        &'a self,
        programs: &'a [&'a str],
    ) -> impl Iterator<Item = &'a Path> {
        let folders = self.folders.iter().map(PathBuf::as_path);
        folders.filter(|folder| programs.iter().all(|name| is_program(&folder.join(name))))
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The `bin` folders below `parent` whose own folder is `prefix` and a version, newest first.
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
    use super::*;

    #[test]
    fn the_newest_version_comes_first_and_what_is_no_version_is_left_out() {
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
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folders = ["a", "b"].map(|name| parent.path().join(name));
        for (folder, mode) in folders.iter().zip([0o644, 0o755]) {
            std::fs::create_dir(folder).unwrap();
            for program in ["one", "two"] {
                std::fs::write(folder.join(program), "").unwrap();
            }
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.join("two"), mode).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.join("one"), mode).unwrap();
        }
        let search = SearchPath::new(folders.clone());
        let found: Vec<_> = search.with_all(&["one", "two"]).collect();
        assert_eq!(found, [&folders[1]]);
    }
}
