//! The handles of the actors that routes use. Routes have no other access to the actors.

use std::future::{Ready, ready};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use headroom_actors::chain::Chains;
use headroom_actors::jobs::{Jobs, Journal};
use headroom_actors::kernel::{AskError, Handle, Tree};
use headroom_actors::lazy::Loader;
use headroom_actors::memory::{BufferAccount, MemorySupervisor, Overview};
use headroom_actors::model::Repository;
use headroom_actors::upload::Uploads;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pools::Pool;

/// The handles of all actors that routes call.
#[derive(Clone)]
pub struct Handles {
    /// The thread that the actors run on.
    pub thread: ActorThread,
    /// The supervision tree, for `GET /api/actors`.
    pub tree: Tree,
    /// The memory budget.
    pub memory: Handle<MemorySupervisor>,
    /// The memory budget by its last reading, without a call.
    pub memory_overview: Overview,
    /// The loader of models and other resources.
    pub loader: Handle<Loader>,
    /// The jobs that requests start.
    pub jobs: Handle<Jobs>,
    /// The journal of optimisations.
    pub journal: Handle<Journal>,
    /// The models on disk.
    pub repository: Handle<Repository>,
    /// The uploaded files.
    pub uploads: Handle<Uploads>,
    /// The chains that are served.
    pub chains: Chains,
    /// The account for the tensors of requests.
    pub tensors: BufferAccount,
    /// The account for the text of responses: of outputs, which have reservations of their own, and of the
    /// status for those who follow it.
    pub answer_text: BufferAccount,
    /// The pools of connections.
    pub pools: Arc<[Pool]>,
    /// `server.request_deadline`.
    pub request_deadline: Duration,
}

/// The handles for one request, with its deadline. All calls of the request share the deadline.
#[derive(Clone)]
pub struct RequestHandles {
    handles: web::Data<Handles>,
    deadline: Instant,
}

impl RequestHandles {
    /// The same handles for a message of the present moment, on a connection that outlives its request.
    pub fn renewed(&self) -> Self {
        Self {
            deadline: Instant::now() + self.handles.request_deadline,
            handles: self.handles.clone(),
        }
    }

    /// What is left of the request's deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Deref for RequestHandles {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl FromRequest for RequestHandles {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let handles = web::Data::<Handles>::from_request(request, payload).into_inner();
        ready(handles.map(|handles| Self {
            deadline: Instant::now() + handles.request_deadline,
            handles,
        }))
    }
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
        let (mut reply, result) = oneshot::channel();
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
        result.await.map_err(|_| AskError::Lost)
    }
}
