//! The settings of uploads.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use headroom_actors::upload::Kind;
use headroom_actors::upload::scanner::Address;

use super::secrets::Secret;
use super::section::{Form, Leaf, Rules, sections};
use super::values::DurationOrZero;

sections! {
    /// Uploaded files.
    pub struct UploadSettings {
        /// The folder of the files; `uploads` in `data.dir` if not set.
        pub dir: Option<PathBuf>,
        /// The kinds of files that are accepted.
        pub kinds: Kinds,
        /// Largest file, of kinds without a size of their own.
        pub file_max: ByteSize,
        /// Largest request.
        pub request_max: ByteSize,
        /// Files per request.
        pub files_max: NonZeroUsize,
        /// Parts per request that are no files.
        pub fields_max: u32,
        /// Most bytes of all parts that are no files, with their names.
        pub fields_size_max: ByteSize,
        /// Longest time for a request.
        pub timeout: Duration,
        /// Uploads at the same time.
        pub active_max: NonZeroUsize,
        /// Uploads of one client at the same time.
        pub client_active_max: NonZeroUsize,
        /// How long an upload waits for its turn, and for memory.
        pub admission_wait: DurationOrZero,
        /// Most bytes of all files together.
        pub stored_max: Option<ByteSize>,
        /// Most files.
        pub stored_files_max: Option<NonZeroUsize>,
        /// Most bytes of the files of one client.
        pub client_stored_max: Option<ByteSize>,
        /// Most files of one client.
        pub client_stored_files_max: Option<NonZeroUsize>,
        /// Free bytes that uploads leave on the disk.
        pub disk_free_min: ByteSize,
        /// How long files are kept; until they are deleted if not set.
        pub ttl: Option<Duration>,
        /// How long an `Idempotency-Key` is remembered.
        pub idempotency_ttl: Duration,
        /// How long an upload in parts is kept after its last part.
        pub partial_ttl: Duration,
        /// Time between two removals of what has expired.
        pub sweep_interval: Duration,
        /// The virus scanner.
        pub scan: ScanSettings,
        /// The bucket of complete files.
        pub s3: S3Settings,
    }

    /// A bucket of an S3-compatible store.
    pub struct S3Settings {
        /// Its name; complete files are in `uploads.dir` if not set.
        pub bucket: Option<String>,
        /// The URL of the store; that of AWS if not set.
        pub endpoint: Option<StoreUrl>,
        /// The region that requests are signed for.
        pub region: String,
        /// What the names of objects begin with.
        pub prefix: String,
        /// The access key.
        pub access_key_id: Option<Secret>,
        /// Its secret.
        pub secret_access_key: Option<Secret>,
        /// Whether the bucket is in the path of URLs.
        pub path_style: bool,
        /// How long one request may take.
        pub timeout: Duration,
        /// How often a failed request is sent again.
        pub retries: u32,
        /// Files that are sent at the same time.
        pub transfers_max: NonZeroUsize,
    }

    /// The virus scanner.
    pub struct ScanSettings {
        /// Whether files are scanned.
        pub policy: ScanPolicy,
        /// Where clamd listens.
        pub address: ScannerAddress,
        /// Files that are scanned at the same time.
        pub connections_max: NonZeroUsize,
        /// How long clamd may take for one file, after its last byte.
        pub verdict_timeout: Duration,
        /// What is done with infected files.
        pub infected: InfectedPolicy,
        /// Most bytes of files in quarantine.
        pub quarantine_max: ByteSize,
        /// How long records of infected files are kept, and the files in quarantine.
        pub infected_ttl: Duration,
    }
}

/// Whether files are scanned for viruses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanPolicy {
    /// They are not.
    Off,
    /// They are, and stored as not scanned if that is not possible.
    BestEffort,
    /// They are, and refused if that is not possible.
    Require,
}

impl Leaf for ScanPolicy {
    const RULE: &'static str = "\"off\", \"best_effort\" or \"require\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "best_effort" => Some(Self::BestEffort),
            "require" => Some(Self::Require),
            _ => None,
        }
    }
}

/// What is done with infected files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfectedPolicy {
    /// Only a record is kept.
    Delete,
    /// The file is kept too, where no request can read it.
    Quarantine,
}

impl Leaf for InfectedPolicy {
    const RULE: &'static str = "\"delete\" or \"quarantine\"";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "delete" => Some(Self::Delete),
            "quarantine" => Some(Self::Quarantine),
            _ => None,
        }
    }
}

/// Where clamd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannerAddress(pub Address);

impl Leaf for ScannerAddress {
    const RULE: &'static str =
        "the path of a socket, such as \"/run/clamav/clamd.ctl\", or a host and a port";

    fn from_text(text: &str) -> Option<Self> {
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        if text.starts_with('/') && !text.contains('\0') {
            return Some(Self(Address::Unix(text.into())));
        }
        let (host, port) = text.rsplit_once(':')?;
        let is_address = !host.is_empty() && is_port(port);
        is_address.then(|| Self(Address::Tcp(text.to_owned())))
    }
}

/// The URL of an S3-compatible store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl(pub String);

impl Leaf for StoreUrl {
    const RULE: &'static str = "a URL without a path, such as \"https://s3.example.com\"";

    fn from_text(text: &str) -> Option<Self> {
        let uri: hyper::Uri = text.parse().ok()?;
        let is_store = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|at| !at.as_str().contains('@'))
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        is_store.then(|| Self(text.trim_end_matches('/').to_owned()))
    }
}

/// Kinds of files, each with its largest size if it has one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(Arc<BTreeMap<Kind, Option<ByteSize>>>);

impl Kinds {
    /// The kinds, each with its largest size: its own, or `file_max`.
    pub fn sizes(&self, file_max: ByteSize) -> BTreeMap<Kind, u64> {
        let sizes = self.0.iter();
        sizes
            .map(|(kind, own)| (*kind, own.unwrap_or(file_max).as_u64()))
            .collect()
    }
}

impl Leaf for Kinds {
    const RULE: &'static str = "a list of kinds, such as [\"pdf\", \"png = 20MiB\"]; the kinds are text, \
        markdown, json, csv, pdf, png, jpeg, gif, webp, torchscript, exported_program, zip, parquet and wav";
    const FORM: Form = Form::List;

    fn from_text(text: &str) -> Option<Self> {
        let mut kinds = BTreeMap::new();
        for item in text.split(',') {
            let (kind, size) = match item.split_once('=') {
                Some((kind, size)) => (kind, Some(ByteSize::from_text(size.trim())?)),
                None => (item, None),
            };
            kinds.insert(kind.trim().parse().ok()?, size);
        }
        Some(Self(Arc::new(kinds)))
    }
}

impl UploadSettings {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.require(
            self.file_max.as_u64() > 0,
            "uploads.file_max must be above 0",
        );
        rules.require(
            self.file_max <= self.request_max,
            "uploads.file_max must not be above uploads.request_max",
        );
        rules.require(
            self.fields_size_max <= ByteSize::mib(1),
            "uploads.fields_size_max must be at most 1MiB: fields are kept in memory",
        );
        rules.require(
            self.active_max.get() <= 10_000,
            "uploads.active_max must be at most 10000",
        );
        self.s3.check(rules);
    }
}

impl S3Settings {
    fn check(&self, rules: &mut Rules) {
        let has_keys = self.access_key_id.is_some() && self.secret_access_key.is_some();
        rules.require(
            self.bucket.is_none() || has_keys,
            "uploads.s3.bucket needs uploads.s3.access_key_id and uploads.s3.secret_access_key",
        );
        rules.require(self.retries <= 10, "uploads.s3.retries must be at most 10");
        rules.require(
            self.transfers_max.get() <= 256,
            "uploads.s3.transfers_max must be at most 256: each may hold 8MiB of memory",
        );
        let is_name = |name: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            !name.is_empty() && name.len() <= 255 && name.chars().all(is_part)
        };
        rules.require(
            self.bucket.as_deref().is_none_or(is_name),
            "uploads.s3.bucket must be a name of letters, digits, dots and hyphens",
        );
        let prefix = self.prefix.trim_end_matches('/');
        rules.require(
            prefix.is_empty() || prefix.split('/').all(is_name),
            "uploads.s3.prefix must be names of letters, digits, dots and hyphens, with slashes between",
        );
    }
}
