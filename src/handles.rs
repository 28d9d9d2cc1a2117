//! What the routes can ask: one handle per room. Handlers hold nothing else of the actors.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use headroom_actors::kernel::{AskError, Handle, Tree};
use headroom_actors::lazy::Loader;
use headroom_actors::memory::{BufferAccount, MemorySupervisor};
use headroom_actors::model::Repository;
use tokio::sync::oneshot;

use crate::pools::Pool;

/// The handles of all handles, and how long an answer may take.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The thread that all of them live on.
    pub thread: ActorThread,
    /// The supervision tree, to look at.
    pub tree: Tree,
    /// The memory budget.
    pub memory: Handle<MemorySupervisor>,
    /// What is loaded.
    pub loader: Handle<Loader>,
    /// The models on disk.
    pub repository: Handle<Repository>,
    /// Memory for the tensors of requests.
    pub tensors: BufferAccount,
    /// Memory for the text of answers; the outputs in it have theirs already.
    pub answer_text: BufferAccount,
    /// The pools of connections.
    pub pools: Arc<[Pool]>,
    /// `server.request_deadline`: no answer takes longer.
    pub request_deadline: Duration,
}

/// The thread that the actors live on, for work that asks several of them.
///
/// Each question from another thread costs two changes of threads, which take longer than the
/// actors do. Asked from their own, they answer one after another without any.
#[derive(Clone, Debug)]
pub struct ActorThread(ArbiterHandle);

impl ActorThread {
    /// The thread of the caller.
    ///
    /// # Panics
    /// Outside of an actix system.
    pub fn current() -> Self {
        Self(Arbiter::current())
    }

    /// Runs `work` there, until it is done or its caller goes away. It must not hold the thread up.
    ///
    /// # Errors
    /// The thread has ended, or the work panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, AskError> {
        let (mut reply, answer) = oneshot::channel();
        let running = self.0.spawn(async move {
            let done = tokio::select! {
                done = work => done,
                () = reply.closed() => return,
            };
            // A caller that goes away in this very moment needs no answer.
            reply.send(done).ok();
        });
        if !running {
            return Err(AskError::Stopped);
        }
        answer.await.map_err(|_| AskError::Lost)
    }
}
