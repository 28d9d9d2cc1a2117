//! The models on disk: `<dir>/<model>/<version>/model.pt`, and `model.toml` beside it.
//!
//! Which names are allowed, and which files exist. All functions block on the file system.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::settings::{ModelSettings, SettingsError};
use crate::kernel::regular_file;

/// A model's name and version.
pub(super) type Key = (String, u64);

/// The file that holds a model.
const MODEL_FILE: &str = "model.pt";

/// The file that holds its settings.
const SETTINGS_FILE: &str = "model.toml";

/// Digits of a version at most.
const VERSION_DIGITS_MAX: usize = 18;

/// Characters of a name at most.
const NAME_MAX: usize = 128;

/// Bytes of a settings file at most.
const SETTINGS_BYTES_MAX: u64 = 256 * 1024;

/// One version of one model on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// The model's name.
    pub name: String,
    /// Its version, a whole number above zero.
    pub version: u64,
    /// Where the file is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What tells it from another file at the same path.
    pub state: FileState,
    /// Its settings, or why they cannot be used.
    pub settings: Result<ModelSettings, SettingsError>,
}

/// The state of a file: it differs after each change, and between two files that one link has named one after the other. The
/// size and the time of the last write alone do not: layers of images and `cp -p` keep both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    device: u64,
    inode: u64,
    /// The times of the last write and of the last change of any kind, in seconds and nanoseconds.
    times: [(i64, i64); 2],
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            times: [
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            ],
        }
    }
}

impl ModelFile {
    pub(super) fn key(&self) -> Key {
        (self.name.clone(), self.version)
    }

    /// Its name in the loader's catalogue.
    pub fn resource(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

/// Whether `name` is allowed: letters, digits, `_`, `-` and `.`, without a dot at the beginning. Names
/// come from URLs and become paths.
pub(super) fn is_model_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Reads a version number, without signs, spaces or leading zeros.
pub fn parse_version(text: &str) -> Option<u64> {
    let digits = (1..=VERSION_DIGITS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0');
    if digits { text.parse().ok() } else { None }
}

/// All models under `dir`, by name and version. Blocks on the file system.
///
/// # Errors
/// `dir` exists and cannot be read. Files that are not models are skipped.
pub fn scan(dir: &Path) -> io::Result<Vec<ModelFile>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            found.extend(scan_model(dir, &name));
        }
    }
    found.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    Ok(found)
}

/// The versions of one model. Blocks on the file system.
pub(super) fn scan_model(dir: &Path, name: &str) -> Vec<ModelFile> {
    if !is_model_name(name) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(dir.join(name)) else {
        return Vec::new();
    };
    let versions = entries.filter_map(|entry| {
        let file_name = entry.ok()?.file_name();
        let version = parse_version(file_name.to_str()?)?;
        read_version(dir, name, version)
    });
    let mut versions: Vec<_> = versions.collect();
    versions.sort_by_key(|file| file.version);
    versions
}

fn read_version(dir: &Path, name: &str, version: u64) -> Option<ModelFile> {
    let folder = dir.join(name).join(version.to_string());
    let path = folder.join(MODEL_FILE);
    let metadata = std::fs::metadata(&path).ok()?;
    let settings = read_settings(&folder.join(SETTINGS_FILE));
    metadata.is_file().then(|| ModelFile {
        name: name.to_owned(),
        version,
        path,
        bytes: metadata.len(),
        state: FileState::of(&metadata),
        settings,
    })
}

fn read_settings(path: &Path) -> Result<ModelSettings, SettingsError> {
    match regular_file::read_text(path, SETTINGS_BYTES_MAX) {
        Ok(text) => ModelSettings::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ModelSettings::default()),
        Err(error) => Err(SettingsError(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for name in ["silero-vad", "a", "A.b_c-9"] {
            assert!(is_model_name(name), "{name}");
        }
        let long = "x".repeat(129);
        for name in [
            "", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\0", "%2e", &long,
        ] {
            assert!(!is_model_name(name), "{name}");
        }
    }

    #[test]
    fn versions_have_one_spelling() {
        assert_eq!(parse_version("12"), Some(12));
        for text in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1 ",
            "1.0",
            "x",
            "9999999999999999999",
        ] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_of_the_same_size_and_time_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let versions = dir.path().join("a/1");
        std::fs::create_dir_all(&versions).unwrap();
        let path = versions.join("model.pt");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(time).unwrap();
        };
        let read = || scan_model(dir.path(), "a").remove(0);
        write(&path, "one");
        let written = read();
        assert_eq!(written, read());
        // In place, as by `cp -p`. The clock of the file system may stand still for some milliseconds.
        let end = Instant::now() + Duration::from_secs(10);
        while read() == written {
            assert!(Instant::now() < end);
            write(&path, "two");
        }
        // As a symbolic link that names one file after the other.
        let [one, two] = ["one", "two"].map(|name| {
            let target = dir.path().join(name);
            write(&target, name);
            move |path: &Path| {
                std::fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink(&target, path).unwrap();
            }
        });
        one(&path);
        let linked = read();
        two(&path);
        let other = read();
        assert_eq!(
            (linked.bytes, linked.state.times[0]),
            (other.bytes, other.state.times[0])
        );
        assert_ne!(linked, other);
    }

    #[test]
    fn a_folder_is_scanned_and_other_files_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("a/1/model.pt", "x");
        put("a/10/model.pt", "xyz");
        put("a/10/model.toml", "instances = 2");
        put("a/2/other.pt", "x");
        put("b/1/model.pt", "x");
        put("b/1/model.toml", "instances = 0");
        put(".git/1/model.pt", "x");
        put("c/latest/model.pt", "x");
        put("file", "x");
        put("d/1/model.pt", "x");
        // Their opens would wait for a writer.
        mkfifo(&dir.path().join("d/1/model.toml"), Mode::S_IRWXU).unwrap();
        std::fs::create_dir(dir.path().join("d/2")).unwrap();
        mkfifo(&dir.path().join("d/2/model.pt"), Mode::S_IRWXU).unwrap();
        let found = scan(dir.path()).unwrap();
        let files: Vec<_> = found
            .iter()
            .map(|file| (file.resource(), file.bytes, file.settings.is_ok()))
            .collect();
        assert_eq!(
            files,
            [
                ("a:1".into(), 1, true),
                ("a:10".into(), 3, true),
                ("b:1".into(), 1, false),
                ("d:1".into(), 1, false)
            ]
        );
        let error = found[3].settings.as_ref().unwrap_err().to_string();
        assert!(error.contains("it is a named pipe"), "{error}");
        assert!(scan(&dir.path().join("absent")).unwrap().is_empty());
    }
}
