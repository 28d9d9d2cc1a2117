//! A look at the models folder within a bound of time.
//!
//! A thread of its own looks, since a look at a file server can hang: nothing must wait for it when the server stops.

use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use headroom_actors::model::check_folder;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a look may take. Only a file server that hangs needs longer.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Whether the folder can be read. Blocks for as long as a look may take.
pub(super) fn look(models_dir: &Path) -> io::Result<()> {
    let (report, found) = sync_channel(1);
    begin(models_dir, move |result| {
        report.send(result).ok();
    })?;
    match found.recv_timeout(LOOK_WITHIN) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(no_answer()),
        Err(RecvTimeoutError::Disconnected) => Err(panicked()),
    }
}

/// A look that is under way.
pub(super) struct FolderLook(oneshot::Receiver<io::Result<()>>);

impl FolderLook {
    /// Begins to look whether the folder can be read.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn begin(models_dir: &Path) -> io::Result<Self> {
        let (report, found) = oneshot::channel();
        begin(models_dir, |result| {
            report.send(result).ok();
        })?;
        Ok(Self(found))
    }

    /// What it has found.
    ///
    /// # Errors
    /// It takes too long, and goes on.
    pub(super) async fn found_in_time(mut self) -> Result<io::Result<()>, Self> {
        match timeout(LOOK_WITHIN, &mut self.0).await {
            Ok(found) => Ok(found.unwrap_or_else(|_| Err(panicked()))),
            Err(_) => Err(self),
        }
    }

    /// What it has found, however long that takes.
    pub(super) async fn found(self) -> io::Result<()> {
        self.0.await.unwrap_or_else(|_| Err(panicked()))
    }
}

/// Looks on another thread, and reports there what it has found.
fn begin(
    models_dir: &Path,
    report: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let dir = models_dir.to_owned();
    thread::Builder::new()
        .name("models-folder".into())
        .spawn(move || report(check_folder(&dir)))?;
    Ok(())
}

/// What is wrong with a folder if a look at it takes too long.
pub(super) fn no_answer() -> io::Error {
    let seconds = LOOK_WITHIN.as_secs();
    let text = format!("the file system has not answered for {seconds} s");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn panicked() -> io::Error {
    io::Error::other("the look at it panicked")
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::testing::TestSystem;

    use super::*;

    #[test]
    fn a_look_that_hangs_can_be_awaited_further() {
        TestSystem::paused(|_| async {
            let (report, found) = oneshot::channel();
            let late = FolderLook(found).found_in_time().await;
            let look = late.err().unwrap();
            report.send(Ok(())).unwrap();
            look.found().await.unwrap();
        });
    }
}
