//! The settings of uploads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::bucket::BucketConfig;
use super::content::{FileName, Kind, Limits, kind_of};
use super::error::UploadError;
use super::scanner::ScannerConfig;

/// The settings of uploads.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder of the files. It is made by the first upload, and belongs to one server.
    pub dir: PathBuf,
    /// The bucket of complete files. `None`: they are in the folder.
    pub bucket: Option<BucketConfig>,
    /// The kinds that are accepted, each with the most bytes of a file.
    pub kinds: BTreeMap<Kind, u64>,
    /// What the content of files may have.
    pub limits: Limits,
    /// Uploads at the same time; further ones wait.
    pub active_max: u32,
    /// Uploads of one caller at the same time; further ones are refused.
    pub caller_active_max: u32,
    /// How long an upload waits for its turn, and for memory.
    pub admission_wait: Duration,
    /// The most bytes of all uploads together, those in progress included. `None`: no bound.
    pub bytes_max: Option<u64>,
    /// The most uploads. `None`: no bound.
    pub files_max: Option<u64>,
    /// As `bytes_max`, for each caller.
    pub caller_bytes_max: Option<u64>,
    /// As `files_max`, for each caller.
    pub caller_files_max: Option<u64>,
    /// The virus scanner, if there is one.
    pub scan: Option<ScanConfig>,
    /// The most bytes of infected files in quarantine. Without a place, only a record of a file is kept.
    pub quarantine_bytes_max: u64,
    /// How long records of infected files are kept, and the files in quarantine.
    pub infected_ttl: Duration,
    /// Free bytes of the disk that uploads leave.
    pub disk_free_min: u64,
    /// How long uploads are kept. `None`: until they are deleted.
    pub ttl: Option<Duration>,
    /// How long a request with a key is remembered.
    pub request_key_ttl: Duration,
    /// How long an upload in parts is kept after its last part.
    pub partial_ttl: Duration,
    /// Time between two removals of what has expired and of what nothing uses.
    pub sweep_interval: Duration,
}

/// How files are scanned for viruses.
#[derive(Debug, Clone)]
pub struct ScanConfig {
    /// The scanner.
    pub scanner: ScannerConfig,
    /// Whether a file that cannot be scanned is refused. Otherwise it is stored as not scanned.
    pub is_required: bool,
}

impl Config {
    /// The kind of a file and the most bytes of it, by what its client says.
    pub(super) fn kind(
        &self,
        name: &FileName,
        media_type: Option<&str>,
    ) -> Result<(Kind, u64), UploadError> {
        let kind = kind_of(name, media_type)?;
        let bytes_max = self.kinds.get(&kind).copied();
        Ok((kind, bytes_max.ok_or(UploadError::KindRefused(kind))?))
    }

    /// The most bytes of a file of any kind.
    pub(super) fn bytes_max_of_any(&self) -> u64 {
        self.kinds.values().copied().max().unwrap_or_default()
    }
}
