//! File operations, off the actors' thread.

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::error::UploadError;

/// Runs file operations on a thread that may wait. A panic fails this work alone.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UploadError> + Send + 'static,
) -> Result<T, UploadError> {
    let done = spawn_blocking(work).await;
    done.map_err(|_| UploadError::Panicked)?
}

/// Drops what holds files on a thread that may wait: the kernel needs long to free one that is large and has no name.
pub(super) fn drop_apart<T: Send + 'static>(files: T) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn_blocking(move || drop(files));
    }
}
