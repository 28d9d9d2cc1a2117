//! A look at the models folder within a bound of time.
//!
//! A thread of its own looks, since a look at a file server can hang: nothing must wait for it when the server stops.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use headroom_actors::model::check_folder;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a look may take. Only a file server that hangs needs longer.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// A look that is under way.
pub(super) struct FolderLook(oneshot::Receiver<io::Result<()>>);

impl FolderLook {
    /// Begins to look whether the folder can be read.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn begin(models_dir: &Path) -> io::Result<Self> {
        let (report, found) = oneshot::channel();
        let dir = models_dir.to_owned();
        let look = move || report.send(check_folder(&dir)).ok();
        thread::Builder::new()
            .name("models-folder".into())
            .spawn(look)?;
        Ok(Self(found))
    }

    /// What it has found. `None` if that takes too long.
    pub(super) async fn found_in_time(&mut self) -> Option<io::Result<()>> {
        timeout(LOOK_WITHIN, self.found()).await.ok()
    }

    /// What it has found, however long that takes. To be called until there is a result.
    pub(super) async fn found(&mut self) -> io::Result<()> {
        let found = (&mut self.0).await;
        found.unwrap_or_else(|_| Err(io::Error::other("the look at it panicked")))
    }
}

/// What is wrong with a folder if a look at it takes too long.
pub(super) fn no_answer() -> io::Error {
    let seconds = LOOK_WITHIN.as_secs();
    let text = format!("the file system has not answered for {seconds} s");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::testing::TestSystem;

    use super::*;

    #[test]
    fn a_look_that_hangs_can_be_awaited_further() {
        TestSystem::paused(|_| async {
            let (report, found) = oneshot::channel();
            let mut look = FolderLook(found);
            assert!(look.found_in_time().await.is_none());
            report.send(Ok(())).unwrap();
            look.found().await.unwrap();
        });
    }
}
