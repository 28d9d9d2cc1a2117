//! Connects uploads with their settings, the memory budget and the database.

use std::path::PathBuf;
use std::sync::Arc;

use headroom_actors::memory::Memory;
use headroom_actors::postgres::Database;
use headroom_actors::upload::scanner::ScannerConfig;
use headroom_actors::upload::{BucketConfig, Config, Limits, ScanConfig, UploadsPlan};

use crate::connection::Pace;
use crate::routes::FormLimits;
use crate::settings::Settings;
use crate::settings::uploads::{InfectedPolicy, S3Settings, ScanPolicy, ScanSettings};

/// The folder of uploaded files in data.dir.
const FOLDER: &str = "uploads";

/// The folder of uploaded files.
pub(crate) fn dir(settings: &Settings) -> PathBuf {
    let dir = settings.uploads.dir.clone();
    dir.unwrap_or_else(|| settings.data.dir.join(FOLDER))
}

pub(super) fn plan(settings: &Settings, memory: &Memory, database: Database) -> UploadsPlan {
    let uploads = &settings.uploads;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let config = Config {
        dir: dir(settings),
        bucket: bucket(&uploads.s3),
        kinds: uploads.kinds.sizes(uploads.file_max),
        limits: Limits::default(),
        active_max: count(uploads.active_max.get()),
        caller_active_max: count(uploads.client_active_max.get()),
        admission_wait: uploads.admission_wait.0,
        bytes_max: uploads.stored_max.map(|max| max.as_u64()),
        files_max: uploads.stored_files_max.map(|max| max.get() as u64),
        caller_bytes_max: uploads.client_stored_max.map(|max| max.as_u64()),
        caller_files_max: uploads.client_stored_files_max.map(|max| max.get() as u64),
        scan: scan(&uploads.scan),
        quarantine_bytes_max: match uploads.scan.infected {
            InfectedPolicy::Delete => 0,
            InfectedPolicy::Quarantine => uploads.scan.quarantine_max.as_u64(),
        },
        infected_ttl: uploads.scan.infected_ttl,
        disk_free_min: uploads.disk_free_min.as_u64(),
        ttl: uploads.ttl,
        request_key_ttl: uploads.idempotency_ttl,
        partial_ttl: uploads.partial_ttl,
        sweep_interval: uploads.sweep_interval,
    };
    // Each upload is bounded, and so is their number.
    let buffers = memory.buffers("uploads", u64::MAX);
    UploadsPlan::new(config, database, Arc::new(buffers), memory.pressure())
}

/// The bucket, unless complete files are in the folder.
pub(crate) fn bucket(settings: &S3Settings) -> Option<BucketConfig> {
    Some(BucketConfig {
        bucket: settings.bucket.clone()?,
        endpoint: settings.endpoint.clone().map(|url| url.0),
        region: settings.region.clone(),
        prefix: settings.prefix.clone(),
        access_key_id: settings.access_key_id.as_ref()?.expose().to_owned(),
        secret_access_key: settings.secret_access_key.as_ref()?.expose().to_owned(),
        path_style: settings.path_style,
        timeout: settings.timeout,
        retries: settings.retries,
        transfers_max: u32::try_from(settings.transfers_max.get()).unwrap_or(u32::MAX),
    })
}

/// The scanner, unless files are not scanned.
pub(crate) fn scan(settings: &ScanSettings) -> Option<ScanConfig> {
    let is_required = match settings.policy {
        ScanPolicy::Off => return None,
        ScanPolicy::BestEffort => false,
        ScanPolicy::Require => true,
    };
    let mut scanner = ScannerConfig::new(settings.address.0.clone());
    scanner.connections_max = u32::try_from(settings.connections_max.get()).unwrap_or(u32::MAX);
    scanner.verdict_timeout = settings.verdict_timeout;
    Some(ScanConfig {
        scanner,
        is_required,
    })
}

/// What bounds the form of one request.
pub(super) fn form_limits(settings: &Settings) -> FormLimits {
    let (server, uploads) = (&settings.server, &settings.uploads);
    let kinds = uploads.kinds.sizes(uploads.file_max);
    FormLimits {
        bytes_max: uploads.request_max.as_u64(),
        file_bytes_max: kinds.into_values().max().unwrap_or_default(),
        files_max: uploads.files_max.get(),
        fields_max: uploads.fields_max as usize,
        fields_bytes_max: usize::try_from(uploads.fields_size_max.as_u64()).unwrap_or(usize::MAX),
        pace: Pace::new(server.body_idle_timeout, server.client_rate_min.as_u64()),
        timeout: uploads.timeout,
    }
}
