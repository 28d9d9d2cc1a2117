//! Calls of a resource's code. They have deadlines, and a panic does not reach the loader.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::FutureExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kernel::{Load, LoadContext, LoadError, LoadErrorKind, Loaded};

/// Loads within the context's deadline. After any failure it calls [`Load::unload`].
pub(super) async fn load_or_unload(
    load: Arc<dyn Load>,
    context: LoadContext,
    stopping: CancellationToken,
) -> Result<Loaded, LoadError> {
    let deadline = context.deadline;
    let loading = {
        let load = Arc::clone(&load);
        catch_panic("load", async move { load.load(context).await })
    };
    let unavailable = |message| Err(LoadError::new(LoadErrorKind::Unavailable, message));
    let result = tokio::select! {
        biased;
        () = stopping.cancelled() => unavailable("stopped"),
        result = timeout(deadline, loading) => match result {
            Ok(Some(result)) => result,
            Ok(None) => unavailable("the load panicked"),
            Err(_) => {
                let deadline = humantime::format_duration(deadline);
                let message = format!("the load took longer than {deadline}");
                Err(LoadError::new(LoadErrorKind::Deadline, message))
            }
        },
    };
    if result.is_err() {
        unload(load).await;
    }
    result
}

/// Unloads. A panic counts as the end of the unload.
pub(super) async fn unload(load: Arc<dyn Load>) {
    catch_panic("unload", async move { load.unload().await }).await;
}

/// Tells a resource that it is drained.
pub(super) fn on_drain(load: &Arc<dyn Load>) {
    let told = std::panic::catch_unwind(AssertUnwindSafe(|| load.on_drain()));
    if told.is_err() {
        tracing::error!(call = "on_drain", "a resource's code panicked");
    }
}

/// Runs `future`. `None` after a panic, which is logged with `call`.
pub(super) async fn catch_panic<T>(
    call: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let result = AssertUnwindSafe(future).catch_unwind().await;
    result
        .inspect_err(|_| tracing::error!(call, "a resource's code panicked"))
        .ok()
}
