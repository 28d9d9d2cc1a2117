//! The handles of the actors that routes use. Routes have no other access to the actors.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use headroom_actors::kernel::{AskError, Handle, Tree};
use headroom_actors::lazy::Loader;
use headroom_actors::memory::{BufferAccount, MemorySupervisor};
use headroom_actors::model::Repository;
use tokio::sync::oneshot;

use crate::pools::Pool;

/// The handles of all actors that routes call, and the deadline of requests.
#[derive(Clone, Debug)]
pub struct Handles {
    /// The thread that the actors run on.
    pub thread: ActorThread,
    /// The supervision tree, for `GET /api/actors`.
    pub tree: Tree,
    /// The memory budget.
    pub memory: Handle<MemorySupervisor>,
    /// The loader of models and other resources.
    pub loader: Handle<Loader>,
    /// The models on disk.
    pub repository: Handle<Repository>,
    /// The account for the tensors of requests.
    pub tensors: BufferAccount,
    /// The account for the text of responses. Outputs have reservations of their own.
    pub answer_text: BufferAccount,
    /// The pools of connections.
    pub pools: Arc<[Pool]>,
    /// `server.request_deadline`: the longest time that a call of an actor may take.
    pub request_deadline: Duration,
}

/// The thread that the actors run on, for requests that call several of them.
///
/// A call from another thread needs two thread switches, which take longer than the actor's work. Calls
/// from the actors' own thread need none.
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

    /// Runs `work` on this thread until it is done or its caller has gone away. It must not block.
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
            // A caller that has just gone away needs no reply.
            reply.send(done).ok();
        });
        if !running {
            return Err(AskError::Stopped);
        }
        answer.await.map_err(|_| AskError::Lost)
    }
}
