//! Conditions of readiness whose parts cannot tell themselves: the thread of the actors, the supervision tree, the models
//! folder.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::rt;
use headroom_actors::kernel::{Tree, shortened};
use tokio::time::sleep;

use super::folder_look::{FolderLook, no_answer};
use crate::liveness::Liveness;
use crate::readiness::{Gate, Readiness};

/// Time between two looks at the models folder.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Time between a first look that fails and the second one, which decides.
const SECOND_LOOK_AFTER: Duration = Duration::from_millis(500);

/// How long a part of the tree must be down to be a reason. A restart that succeeds takes milliseconds.
const FAILING_MIN: Duration = Duration::from_secs(2);

/// The most bytes of a reason that is not the server's own text.
const REASON_MAX: usize = 512;

/// Has `readiness` check that the thread of the actors runs, and all that is directly below the root of the tree.
pub(super) fn watch_actors(readiness: &Readiness, liveness: Liveness, tree: Tree) {
    readiness.watch("actors_thread", move || {
        let seconds = liveness.silence()?.as_secs();
        Some(format!("it has stood still for {seconds} s"))
    });
    readiness.watch("supervision", move || {
        let failing = tree.failing_for(FAILING_MIN).into_iter();
        let reasons = failing.map(|node| {
            let exit = shortened(node.last_exit.unwrap_or_default(), REASON_MAX);
            format!("{} does not run since it ended: {exit}", node.path)
        });
        let reasons: Vec<_> = reasons.collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    });
}

/// Opens `gate`, and closes it from now on while the models folder cannot be read, as two looks in a row say. A folder that
/// has never been readable is no reason: it may be made or mounted later, and the start has warned of it. Must be called
/// inside an actix system.
pub(super) fn watch_models_folder(dir: PathBuf, gate: Gate) {
    gate.open();
    let mut folder = ModelsFolder {
        was_there: false,
        dir,
        gate,
        last_failed: false,
        reason: None,
    };
    rt::spawn(async move {
        loop {
            folder.look().await;
            sleep(folder.next_look_after()).await;
        }
    });
}

struct ModelsFolder {
    dir: PathBuf,
    gate: Gate,
    /// Whether a look could read it.
    was_there: bool,
    /// Whether the last look failed.
    last_failed: bool,
    /// Why it cannot be read.
    reason: Option<String>,
}

impl ModelsFolder {
    fn next_look_after(&self) -> Duration {
        match self.last_failed && self.reason.is_none() {
            true => SECOND_LOOK_AFTER,
            false => LOOK_INTERVAL,
        }
    }

    async fn look(&mut self) {
        let look = match FolderLook::begin(&self.dir) {
            Ok(look) => look,
            Err(error) => {
                tracing::debug!(%error, "models.dir is not looked at: no thread can be started");
                return;
            }
        };
        let found = match look.found_in_time().await {
            Ok(found) => found,
            Err(look) => {
                self.last_failed = true;
                self.set(Some(no_answer().to_string()));
                // No second look, which would hang too.
                look.found().await
            }
        };
        self.judge(found);
    }

    fn judge(&mut self, looked: io::Result<()>) {
        let reason = match looked {
            Ok(()) => {
                self.was_there = true;
                None
            }
            Err(error) => self.was_there.then(|| error.to_string()),
        };
        let is_first_failure = reason.is_some() && !self.last_failed;
        self.last_failed = reason.is_some();
        if !is_first_failure {
            self.set(reason);
        }
    }

    fn set(&mut self, reason: Option<String>) {
        if self.reason == reason {
            return;
        }
        let dir = self.dir.display();
        match &reason {
            Some(reason) => {
                tracing::warn!(%dir, reason, "models.dir cannot be read: the server is not ready");
                self.gate
                    .close(format!("models.dir ({dir}) cannot be read: {reason}"));
            }
            None => {
                tracing::info!(%dir, "models.dir can be read again");
                self.gate.open();
            }
        }
        self.reason = reason;
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::SupervisorSpec;
    use headroom_actors::kernel::testing::TestSystem;

    use super::*;

    #[test]
    fn a_tree_that_has_ended_is_a_reason() {
        TestSystem::paused(|system| async move {
            let readiness = Readiness::default();
            watch_actors(&readiness, Liveness::default(), system.tree().clone());
            assert_eq!(readiness.reasons(), []);
            let root = system.start(SupervisorSpec::new("headroom")).await;
            assert_eq!(readiness.reasons(), []);
            root.stop().await;
            assert_eq!(readiness.reasons(), [], "it may start again");
            sleep(FAILING_MIN).await;
            let reasons = readiness.reasons();
            let [("supervision", reason)] = &reasons[..] else {
                panic!("{reasons:?}");
            };
            assert!(reason.starts_with("headroom does not run"), "{reason}");
        });
    }

    #[test]
    fn a_models_folder_is_a_reason_once_it_could_be_read() {
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::NotADirectory,
            io::ErrorKind::PermissionDenied,
        ] {
            let readiness = Readiness::default();
            let mut folder = ModelsFolder {
                dir: "/models".into(),
                gate: readiness.gate("models"),
                was_there: false,
                last_failed: false,
                reason: None,
            };
            folder.gate.open();
            for _ in 0..2 {
                folder.judge(Err(kind.into()));
                assert!(readiness.is_ready(), "{kind}");
                assert_eq!(folder.next_look_after(), LOOK_INTERVAL, "{kind}");
            }
            for _ in 0..2 {
                folder.judge(Ok(()));
                folder.judge(Err(kind.into()));
                assert!(readiness.is_ready(), "{kind}: one failed look");
                assert_eq!(folder.next_look_after(), SECOND_LOOK_AFTER, "{kind}");
            }
            folder.judge(Err(kind.into()));
            assert_eq!(folder.next_look_after(), LOOK_INTERVAL, "{kind}");
            let reasons = readiness.reasons();
            assert!(
                reasons[0].1.starts_with("models.dir (/models) "),
                "{reasons:?}"
            );
            folder.judge(Ok(()));
            assert!(readiness.is_ready(), "{kind}");
        }
    }
}
