//! The models on disk: `<dir>/<model>/<version>/model.pt`, and `model.toml` beside it and for all versions beside these.
//!
//! Which names are allowed, which files exist, and which are not where they are looked for. All functions block on the file
//! system.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::settings::{ModelSettings, SettingsError, VersionPolicy};
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

/// What is told of misplaced files at most.
const MISPLACED_MAX: usize = 100;

/// Entries at most that are looked at in a folder that is not one of a version.
const LOOKED_AT_MAX: usize = 100;

/// The extensions of files that look like models.
const MODEL_EXTENSIONS: [&str; 3] = ["pt", "pth", "ts"];

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
    /// What changes when the content does, at the latest with the end of the write.
    fn content(&self) -> (u64, u64, (i64, i64)) {
        (self.device, self.inode, self.times[0])
    }

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

/// A model's file, open from the load until the unload. Each process of the model reads this file, whatever has its name then.
#[derive(Debug)]
pub(super) struct OpenModel {
    file: File,
    state: FileState,
}

impl OpenModel {
    /// Opens a file. Blocks on the file system.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = regular_file::open(path)?;
        let state = FileState::of(&file.metadata()?);
        Ok(Self { file, state })
    }

    /// The file with a position of its own, for one process. Blocks on the file system.
    ///
    /// # Errors
    /// It cannot be opened again, or its content was changed.
    pub(super) fn reopen(&self) -> io::Result<File> {
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        // A rename or a removal of the file changes only the time of the last change.
        if FileState::of(&file.metadata()?).content() == self.state.content() {
            Ok(file)
        } else {
            let why = "the file was written to after the model was loaded";
            Err(io::Error::other(why))
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

/// What a models folder holds.
#[derive(Debug, Default, PartialEq)]
pub struct Scan {
    /// All versions of all models, by name and version.
    pub files: Vec<ModelFile>,
    /// The models that have settings for all of their versions: `<dir>/<model>/model.toml`.
    pub policies: BTreeMap<String, Result<VersionPolicy, SettingsError>>,
    /// What is not used although it looks like a model, the first 100.
    pub misplaced: Vec<Misplaced>,
}

/// Something that looks like a model or like its settings and is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Misplaced {
    /// The folder or file in the models folder that it is in.
    pub name: String,
    /// Its path in the models folder.
    pub path: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Checks that the models in `dir` can be found. Blocks on the file system. Needs no descriptor: that there is none says
/// nothing of the folder.
///
/// # Errors
/// `dir` does not exist, is not a folder, or may not be read or entered.
pub fn check_folder(dir: &Path) -> io::Result<()> {
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    // A folder that may be listed but not entered has names without files.
    Ok(access(dir, AccessFlags::R_OK | AccessFlags::X_OK)?)
}

/// All models under `dir`. Blocks on the file system.
///
/// # Errors
/// `dir` exists and cannot be read. Files that are not models are skipped.
pub fn scan(dir: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(scan),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let file_name = entry?.file_name();
        match file_name.to_str() {
            Some(name) if is_model_name(name) && dir.join(name).is_dir() => scan.add(dir, name),
            _ => scan.check_top_level(dir, &file_name),
        }
    }
    scan.files
        .sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    scan.misplaced.sort();
    Ok(scan)
}

/// One model. Blocks on the file system.
pub(super) fn scan_model(dir: &Path, name: &str) -> Scan {
    let mut scan = Scan::default();
    if is_model_name(name) {
        scan.add(dir, name);
    }
    scan.files.sort_by_key(|file| file.version);
    scan
}

impl Scan {
    /// Adds the versions of the model `name`.
    fn add(&mut self, dir: &Path, name: &str) {
        let folder = dir.join(name);
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return;
        };
        let settings = folder.join(SETTINGS_FILE);
        match read_text(&settings).map(|text| VersionPolicy::parse(&text)) {
            Ok(policy) => {
                if let Err(error) = &policy {
                    self.misplace(name, SETTINGS_FILE, error.to_string());
                }
                self.policies.insert(name.to_owned(), policy);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let error = SettingsError(error.to_string());
                self.misplace(name, SETTINGS_FILE, error.to_string());
                self.policies.insert(name.to_owned(), Err(error));
            }
        }
        for entry in entries.filter_map(Result::ok) {
            let file_name = entry.file_name();
            let shown = file_name.to_string_lossy();
            let path = folder.join(&file_name);
            match file_name.to_str().and_then(parse_version) {
                Some(version) => match read_version(&path, name, version) {
                    Some(file) => self.files.push(file),
                    None => self.check_version(&path, name, &shown),
                },
                None if looks_like_model(&path) => {
                    let reason =
                        format!("a model is in a folder for its version: {name}/1/{MODEL_FILE}");
                    self.misplace(name, &shown, reason);
                }
                None if has_model(&path) => {
                    let reason =
                        format!("a version is a whole number above zero: {name}/1/{MODEL_FILE}");
                    self.misplace(name, &shown, reason);
                }
                None => {}
            }
        }
    }

    /// Looks for a model under another name in the folder of a version.
    fn check_version(&mut self, folder: &Path, name: &str, version: &str) {
        if let Some(file) = model_in(folder) {
            let reason = format!("the file of a model is named {MODEL_FILE}");
            self.misplace(name, &format!("{version}/{file}"), reason);
        } else if folder.join(MODEL_FILE).exists() {
            let reason = "it is not a regular file".to_owned();
            self.misplace(name, &format!("{version}/{MODEL_FILE}"), reason);
        }
    }

    /// Looks for a model in what cannot be a model's folder.
    fn check_top_level(&mut self, dir: &Path, file_name: &OsStr) {
        let path = dir.join(file_name);
        let name = file_name.to_string_lossy();
        if name.starts_with('.') {
            return;
        }
        let reason = if looks_like_model(&path) {
            format!("a model is in a folder for its name and its version: name/1/{MODEL_FILE}")
        } else if has_model(&path) || folders_in(&path).any(|folder| has_model(&folder)) {
            format!("the name of a model has at most {NAME_MAX} letters, digits, `_`, `-` and `.`")
        } else {
            return;
        };
        self.misplace(&name, "", reason);
    }

    fn misplace(&mut self, name: &str, below: &str, reason: String) {
        if self.misplaced.len() < MISPLACED_MAX {
            let path = match below {
                "" => name.to_owned(),
                below => format!("{name}/{below}"),
            };
            let name = name.to_owned();
            self.misplaced.push(Misplaced { name, path, reason });
        }
    }
}

/// Whether it is a file that is named as PyTorch's users name models.
fn looks_like_model(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| MODEL_EXTENSIONS.contains(&extension)) && path.is_file()
}

/// The first entries of a folder.
fn entries_of(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let entries = entries.take(LOOKED_AT_MAX).filter_map(Result::ok);
    entries.map(|entry| entry.path())
}

fn folders_in(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries_of(folder).filter(|path| path.is_dir())
}

/// The name of a file in `folder` that looks like a model.
fn model_in(folder: &Path) -> Option<String> {
    let found = entries_of(folder).find(|path| looks_like_model(path))?;
    Some(found.file_name()?.to_string_lossy().into_owned())
}

fn has_model(folder: &Path) -> bool {
    model_in(folder).is_some()
}

fn read_version(folder: &Path, name: &str, version: u64) -> Option<ModelFile> {
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

fn read_text(path: &Path) -> io::Result<String> {
    regular_file::read_text(path, SETTINGS_BYTES_MAX)
}

fn read_settings(path: &Path) -> Result<ModelSettings, SettingsError> {
    match read_text(path) {
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
        let read = || scan_model(dir.path(), "a").files.remove(0);
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
        let found = scan(dir.path()).unwrap().files;
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
        let absent = scan(&dir.path().join("absent")).unwrap();
        assert_eq!(absent, Scan::default());
    }

    #[test]
    fn models_that_are_not_where_they_must_be_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for path in [
            "a/1/model.pt",
            "a/README.md",
            "a/2/model.onnx",
            ".cache/1/model.pt",
            "a/..data/model.pt",
            "notes/1/notes.txt",
        ] {
            put(path);
        }
        let told = || {
            let told = scan(dir.path()).unwrap().misplaced;
            told.into_iter()
                .map(|it| (it.path, it.reason))
                .collect::<Vec<_>>()
        };
        put("a/..data/other");
        std::fs::remove_file(dir.path().join("a/..data/model.pt")).unwrap();
        assert_eq!(told(), []);
        for (path, shown, word) in [
            ("b/model.pt", "b/model.pt", "b/1/model.pt"),
            ("c/v1/model.pt", "c/v1", "whole number"),
            ("c/01/model.pt", "c/01", "whole number"),
            ("d/1/net.pth", "d/1/net.pth", "named model.pt"),
            ("d/2/model.pt/x", "d/2/model.pt", "regular file"),
            ("my model/1/model.pt", "my model", "letters"),
            ("ä/model.pt", "ä", "letters"),
            ("net.pt", "net.pt", "name/1/model.pt"),
            ("e/model.toml", "e/model.toml", "line 1"),
        ] {
            put(path);
            let told = told();
            assert!(
                told.iter()
                    .any(|(path, reason)| path == shown && reason.contains(word)),
                "{path}: {told:?}"
            );
        }
        assert_eq!(told().len(), 9);
        for number in 0..200 {
            put(&format!("many/v{number}/model.pt"));
        }
        assert_eq!(told().len(), MISPLACED_MAX);
    }

    #[test]
    fn a_folder_can_be_read_and_a_file_or_nothing_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        check_folder(folder.path()).unwrap();
        let kind = |path: &Path| check_folder(path).unwrap_err().kind();
        assert_eq!(kind(&file), io::ErrorKind::NotADirectory);
        let missing = folder.path().join("missing");
        assert_eq!(kind(&missing), io::ErrorKind::NotFound);
    }
}
