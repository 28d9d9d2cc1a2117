//! Work of the actor that fails alone.

use tokio::task::JoinSet;

use super::error::UploadError;

/// Runs work in a task of its own: a panic of it fails this work, and no other of the actor. It ends with its caller.
pub(super) async fn apart<T: 'static>(
    work: impl Future<Output = Result<T, UploadError>> + 'static,
) -> Result<T, UploadError> {
    // A set aborts its task when it is dropped, so no work outlives the actor.
    let mut task = JoinSet::new();
    task.spawn_local(work);
    match task.join_next().await {
        Some(Ok(output)) => output,
        // The panic itself is in the log.
        Some(Err(_)) | None => Err(UploadError::Panicked),
    }
}
