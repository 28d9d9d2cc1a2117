//! Reads what a model's file declares, without loading the model: in a process that ends then, because the file is from an
//! unknown source.

use std::time::Duration;

use futures_util::stream::StreamExt;
use headroom_model_protocol::{DeniedAction, Description, HostReply, HostRequest};
use tokio::time::timeout;

use super::blocking::run_blocking;
use super::confinement::Confinement;
use super::connection;
use super::files::ModelFile;
use super::host_process::{HostError, check_description, is_denial};
use super::metrics::count_denied;
use super::reports::log_denied;
use super::resource::Runtime;
use crate::kernel::process::{Process, SpawnError};
use crate::kernel::{BudgetError, regular_file};

/// What the process may need: libtorch's relocated pages, and the code of a model.
const PROCESS_BYTES: u64 = 80 << 20;

/// What it may allocate for itself at most. Code and pickles of more are not described.
const OWN_MAX: u64 = 64 << 20;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Why a file is not described.
#[derive(Debug, thiserror::Error)]
pub(super) enum DescribeError {
    #[error(transparent)]
    NoMemory(#[from] BudgetError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("it took longer than {WITHIN:?}")]
    Deadline,
    #[error("the process ended before it replied")]
    Ended,
}

/// Reads what `file` declares.
pub(super) async fn describe(
    runtime: Runtime,
    file: &ModelFile,
) -> Result<Description, DescribeError> {
    let reserved = runtime.memory.answers.reserve_after_reading(PROCESS_BYTES);
    let _reserved = reserved.await?;
    let described = timeout(WITHIN, run(&runtime, file)).await;
    described.unwrap_or(Err(DescribeError::Deadline))
}

async fn run(runtime: &Runtime, file: &ModelFile) -> Result<Description, DescribeError> {
    let path = file.path.clone();
    let model = run_blocking(move || regular_file::open(&path)).await;
    let model = model.map_err(HostError::ModelFile)?;
    let (sender, frames, process_end) = connection::pair::<HostReply>().map_err(HostError::from)?;
    let name = format!("describe {}", file.resource());
    let spec = runtime.process("--serve", &name);
    // Dropping it kills it.
    let mut process = Process::spawn(&spec, process_end.into())
        .map_err(|source| HostError::from(SpawnError::new(&spec, source)))?;
    let request = HostRequest::Describe {
        sandbox: runtime.config.sandbox,
        own_max: OWN_MAX,
    };
    let sent = sender.send(&request, &[], vec![model.into()]);
    sent.map_err(HostError::from)?;
    let on_denied = |action, count| {
        log_denied(&name, action, count);
        count_denied(&file.resource(), action, count);
    };
    let mut confinement = Confinement::new(runtime.config.sandbox);
    let mut frames = std::pin::pin!(frames);
    while let Some(received) = frames.next().await {
        let frame = received.map_err(HostError::from)?.frame;
        match confinement.take(frame, on_denied)? {
            None => {}
            Some(HostReply::Described(description)) => {
                confinement.finish()?;
                check_description(&description)?;
                return Ok(description);
            }
            Some(HostReply::StartFailed(failure)) => {
                return Err(HostError::StartFailed(failure).into());
            }
            Some(_) => return Err(HostError::Unexpected("during the reading of a file").into()),
        }
    }
    if is_denial(process.ended().await) {
        on_denied(DeniedAction::System, 1);
    }
    Err(DescribeError::Ended)
}
