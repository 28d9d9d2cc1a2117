//! Work that blocks, off the actors' thread.

/// Runs file system work or a large copy on a thread that may block.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work does not panic, and the runtime does not shut down under a running actor.
        Err(_) => std::future::pending().await,
    }
}
