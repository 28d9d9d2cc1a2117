//! The loader's answer to a caller, now or later.

use tokio::sync::oneshot;

/// An answer that is known, or a channel on which it will come.
pub(super) enum Answer<T> {
    Now(T),
    Later(oneshot::Receiver<T>),
}

impl<T> Answer<T> {
    /// Waits for the answer. `None` when the loader has gone without giving one.
    pub(super) async fn wait(self) -> Option<T> {
        match self {
            Self::Now(answer) => Some(answer),
            Self::Later(answer) => answer.await.ok(),
        }
    }
}
