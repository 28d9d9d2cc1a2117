//! A folder of models for one test, the real sample model, and reference outputs of that model from a process without
//! a server.

#![expect(clippy::expect_used, clippy::panic, reason = "how a test fails")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::child;
use crate::server::Options;

/// The sample model's name, in requests and on disk.
pub const SAMPLE: &str = "silero-vad";

/// Longest time for all forwards of a [`Reference`].
const REFERENCE_DEADLINE: Duration = Duration::from_secs(120);

/// Samples in one row of the sample model's input.
pub const SAMPLE_CHUNK: usize = 512;

/// A temporary models folder, removed when dropped. Models can be added while a server runs.
#[derive(Debug)]
pub struct Models {
    folder: TempDir,
}

impl Models {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made. All functions here panic when the file system refuses.
    #[expect(clippy::new_without_default, reason = "it makes a folder on disk")]
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of one version of a model.
    pub fn version(&self, name: &str, version: u64) -> PathBuf {
        self.path().join(name).join(version.to_string())
    }

    /// Adds the model that `write` writes, in one step. It replaces an existing one.
    ///
    /// ```
    /// # use headroom_test_support::{models::Models, torchscript};
    /// Models::new().add("affine", 1, torchscript::affine);
    /// ```
    pub fn add(
        &self,
        name: &str,
        version: u64,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> &Self {
        let folder = self.version(name, version);
        fs::create_dir_all(&folder).expect("a folder for a model");
        let unfinished = folder.join("unfinished");
        write(&unfinished).expect("a model is written");
        fs::rename(unfinished, folder.join("model.pt")).expect("a model is put in its place");
        self
    }

    /// Writes the `model.toml` of a model.
    pub fn settings(&self, name: &str, version: u64, toml: &str) -> &Self {
        let folder = self.version(name, version);
        fs::create_dir_all(&folder).expect("a folder for a model");
        fs::write(folder.join("model.toml"), toml).expect("settings are written");
        self
    }

    /// Adds the sample model with its settings.
    pub fn add_sample(&self) -> &Self {
        self.add(SAMPLE, 1, |path| {
            std::os::unix::fs::symlink(sample_file(), path)
        })
        .settings(SAMPLE, 1, &sample_settings())
    }

    /// The options of a server with these models; `binary` is `env!("CARGO_BIN_EXE_headroom")`.
    ///
    /// # Panics
    /// When the model host was not built.
    pub fn options(&self, binary: impl AsRef<Path>) -> Options {
        let binary = binary.as_ref();
        program_beside(binary, "headroom-model-host");
        Options::new(binary).settings(&format!("models.dir = '{}'", self.path().display()))
    }
}

/// The sample model's file.
pub fn sample_file() -> PathBuf {
    cached(&format!("models/{SAMPLE}/1/model.pt"))
}

/// The sample model's settings, as setup installs them.
pub fn sample_settings() -> String {
    fs::read_to_string(cached(&format!("models/{SAMPLE}/1/model.toml"))).expect("settings are text")
}

/// A minute of speech.
pub fn speech_60s() -> PathBuf {
    cached("samples/speech-60s.wav")
}

/// A file or folder that setup has put into the cache.
///
/// # Panics
/// When it does not exist.
pub fn cached(path: &str) -> PathBuf {
    let path = cache().join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make setup` and `make test-programs` first",
        path.display()
    );
    path
}

/// The folder of the cache, which may not be there.
pub(crate) fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (set("HEADROOM_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _, _) => PathBuf::from(cache),
        (None, Some(caches), _) => PathBuf::from(caches).join("headroom"),
        (None, None, home) => PathBuf::from(home.expect("HOME is set")).join(".cache/headroom"),
    }
}

/// A program in the same folder as `binary`.
fn program_beside(binary: impl AsRef<Path>, program: &str) -> PathBuf {
    let path = binary.as_ref().with_file_name(program);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` and \
         `cargo build -p headroom-model-host --examples` first",
        path.display()
    );
    path
}

/// Reference outputs: the sample model runs on speech in one process with libtorch and without a server.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Index of the first chunk.
    pub skip: usize,
    /// Number of forwards.
    pub forwards: usize,
    /// Consecutive chunks in each forward, as rows.
    pub rows: usize,
    /// Reset the model's state before every forward, not only before the first.
    pub fresh: bool,
}

impl Reference {
    /// One row per forward, in order, with the state kept.
    pub fn stream(skip: usize, forwards: usize) -> Self {
        Self {
            skip,
            forwards,
            rows: 1,
            fresh: false,
        }
    }

    /// Runs the process and returns the outputs of each forward.
    ///
    /// # Panics
    /// When the process fails.
    pub fn outputs(self, binary: &str) -> Vec<Vec<f32>> {
        #[derive(Deserialize)]
        struct Report {
            outputs: Vec<Vec<f32>>,
        }
        let mut command = child::command(program_beside(binary, "examples/bare_forward"));
        command.arg(sample_file()).arg(speech_60s());
        let numbers = [
            ("--skip", self.skip),
            ("--forwards", self.forwards),
            ("--rows", self.rows),
        ];
        for (option, number) in numbers {
            command.arg(option).arg(number.to_string());
        }
        if self.fresh {
            command.arg("--fresh");
        }
        let output = child::output(&mut command, REFERENCE_DEADLINE).expect("bare_forward runs");
        if !output.status.success() {
            panic!(
                "bare_forward: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let report: Report = serde_json::from_slice(&output.stdout).expect("its report is JSON");
        report.outputs
    }
}
