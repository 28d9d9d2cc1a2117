//! A signal that something which operators see has changed. Whoever shows the state reads it anew then,
//! and does not have to ask all the time.

use tokio::sync::watch;

/// Publishes that something has changed, without saying what. Clones have the same readers.
#[derive(Debug, Clone, Default)]
pub struct Changes(watch::Sender<()>);

impl Changes {
    /// Wakes all readers. Never waits, and costs little without a reader.
    pub fn publish(&self) {
        self.0.send_replace(());
    }

    /// A reader of every change from now on.
    pub fn subscribe(&self) -> ChangeReader {
        ChangeReader(self.0.subscribe())
    }
}

/// One reader of changes.
#[derive(Debug)]
pub struct ChangeReader(watch::Receiver<()>);

impl ChangeReader {
    /// Waits for a change after the last one that this reader saw. Changes in between are one. Never ends
    /// when there is no publisher any more.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_sees_each_change_once_and_many_as_one() {
        let changes = Changes::default();
        changes.publish();
        let mut reader = changes.subscribe();
        assert_eq!(reader.next().now_or_never(), None);
        changes.clone().publish();
        changes.publish();
        reader.next().await;
        assert_eq!(reader.next().now_or_never(), None);
        drop(changes);
        assert_eq!(reader.next().now_or_never(), None);
    }
}
