//! A folder of models for one test, and the real sample model with what a bare process makes of it.

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

/// Longest time for all that [`Bare`] is asked for.
const BARE_WITHIN: Duration = Duration::from_secs(120);

/// Samples in one row of the sample model's input.
pub const SAMPLE_CHUNK: usize = 512;

/// A models folder of its own, gone when dropped. Models can be put in while a server runs.
#[derive(Debug)]
pub struct Models {
    folder: TempDir,
}

impl Models {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made; so for all functions here.
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

    /// Where a version of a model is.
    pub fn version(&self, name: &str, version: u64) -> PathBuf {
        self.path().join(name).join(version.to_string())
    }

    /// Puts in a model as `write` writes it, whole at once, in place of one that is there.
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

    /// Puts a `model.toml` beside a model.
    pub fn settings(&self, name: &str, version: u64, toml: &str) -> &Self {
        let folder = self.version(name, version);
        fs::create_dir_all(&folder).expect("a folder for a model");
        fs::write(folder.join("model.toml"), toml).expect("settings are written");
        self
    }

    /// Puts in the sample model with its settings.
    pub fn add_sample(&self) -> &Self {
        self.add(SAMPLE, 1, |path| {
            std::os::unix::fs::symlink(sample_file(), path)
        })
        .settings(SAMPLE, 1, &sample_settings())
    }

    /// How to start a server with these models; `binary` is `env!("CARGO_BIN_EXE_headroom")`.
    ///
    /// # Panics
    /// When the model host was not built.
    pub fn options(&self, binary: &str) -> Options {
        beside(binary, "headroom-model-host");
        Options::new(binary).settings(&format!("models.dir = '{}'", self.path().display()))
    }
}

/// The sample model's file.
pub fn sample_file() -> PathBuf {
    cached(&format!("models/{SAMPLE}/1/model.pt"))
}

/// The sample model's settings, as they are installed.
pub fn sample_settings() -> String {
    fs::read_to_string(cached(&format!("models/{SAMPLE}/1/model.toml"))).expect("settings are text")
}

/// A minute of speech.
pub fn speech_60s() -> PathBuf {
    cached("samples/speech-60s.wav")
}

/// A file or folder that the setup put into the cache.
///
/// # Panics
/// When it is not there.
pub fn cached(path: &str) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match (set("HEADROOM_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _, _) => PathBuf::from(cache),
        (None, Some(caches), _) => PathBuf::from(caches).join("headroom"),
        (None, None, home) => PathBuf::from(home.expect("HOME is set")).join(".cache/headroom"),
    };
    let path = cache.join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make setup` and `scripts/setup.sh protocol_client` first",
        path.display()
    );
    path
}

/// A program that was built beside `binary`.
fn beside(binary: &str, program: &str) -> PathBuf {
    let path = Path::new(binary).with_file_name(program);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` and \
         `cargo build -p headroom-model-host --examples` first",
        path.display()
    );
    path
}

/// What one bare process with libtorch and nothing else makes of the sample model and speech.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// The first chunk.
    pub skip: usize,
    /// How many forwards.
    pub forwards: usize,
    /// Rows of each: chunks next to each other.
    pub rows: usize,
    /// Forget before every forward, not only before the first.
    pub fresh: bool,
}

impl Bare {
    /// One row per forward, in order, with state.
    pub fn stream(skip: usize, forwards: usize) -> Self {
        Self {
            skip,
            forwards,
            rows: 1,
            fresh: false,
        }
    }

    /// The outputs of each forward.
    ///
    /// # Panics
    /// When the process fails.
    pub fn run(self, binary: &str) -> Vec<Vec<f32>> {
        #[derive(Deserialize)]
        struct Report {
            outputs: Vec<Vec<f32>>,
        }
        let mut command = child::command(beside(binary, "examples/bare_forward"));
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
        let output = child::output(&mut command, BARE_WITHIN).expect("bare_forward runs");
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
