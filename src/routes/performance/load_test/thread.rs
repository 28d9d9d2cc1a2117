//! The thread that load comes from.
//!
//! Why it exists: load from the actors' thread would take the time of the actors that it measures, and
//! load from an HTTP worker that of other requests.

use std::thread;

use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Runs `work` on a thread of its own, until it is done or the caller has gone away. What it has spawned
/// ends with it.
///
/// # Errors
/// There is no thread, or the work panicked.
pub(super) async fn on_own_thread<T, F>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, String>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (mut reply, result) = oneshot::channel();
    let run = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                reply
                    .send(Err(format!("no runtime for the load: {error}")))
                    .ok();
                return;
            }
        };
        runtime.block_on(async {
            let done = tokio::select! {
                done = work() => done,
                () = reply.closed() => return,
            };
            // A caller that has just gone away needs no reply.
            reply.send(Ok(done)).ok();
        });
    };
    thread::Builder::new()
        .name("load-test".into())
        .spawn(run)
        .map_err(|error| format!("no thread for the load: {error}"))?;
    let panicked = |_| Err("the load panicked; see the log of the server".into());
    result.await.unwrap_or_else(panicked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn work_runs_on_another_thread_and_a_panic_is_an_error() {
        let here = thread::current().id();
        let there = on_own_thread(|| async { thread::current().id() }).await;
        assert_ne!(there.unwrap(), here);
        let panicked = on_own_thread(|| async { panic!("as planned") });
        let panicked: Result<(), _> = panicked.await;
        assert!(panicked.unwrap_err().contains("panicked"));
    }

    #[tokio::test]
    async fn work_ends_when_its_caller_goes_away() {
        let held = Arc::new(());
        let in_work = Arc::clone(&held);
        let (started, is_started) = oneshot::channel();
        let work = on_own_thread(move || async move {
            let _held = in_work;
            started.send(()).ok();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            _ = work => panic!("it does not end by itself"),
            () = async { is_started.await.unwrap() } => {}
        }
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
