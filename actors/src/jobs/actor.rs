//! The actor that owns the running jobs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::config::Config;
use super::context::JobContext;
use super::error::StartError;
use super::messages::{Cancel, Drain, Follow, Get, List, Start};
use super::record::{Ending, JobWatch};
use super::run::run;
use super::status::JobId;
use super::store::Store;
use crate::kernel::{Call, Changes, Child, ChildSpec, Exit, Handle};

/// How long after the end of all wind-downs a stop may take.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The owner of the running jobs. The module's documentation lists its guarantees.
pub struct Jobs {
    config: Config,
    /// Survives this incarnation.
    store: Arc<Mutex<Store>>,
    is_draining: bool,
    /// Whether a timer runs that forgets jobs. One serves all jobs: a context polls all of its timers each
    /// time that it wakes.
    is_forgetting: bool,
    running: watch::Sender<usize>,
    /// Told when a job starts or ends.
    changes: Changes,
}

impl Jobs {
    /// Makes a handle for an actor with `config`.
    pub fn handle(config: &Config) -> Handle<Self> {
        Handle::new("jobs", config.in_flight_max)
    }

    /// Makes the child spec of the actor, which publishes the start and the end of jobs with `changes`.
    /// Its jobs survive restarts. It should be started after all actors that jobs call, so that it stops
    /// before them.
    pub fn child(handle: &Handle<Self>, config: Config, changes: Changes) -> ChildSpec {
        let store = Arc::new(Mutex::new(Store::new(config)));
        ChildSpec::actor(handle, move |_| Self {
            config,
            store: Arc::clone(&store),
            is_draining: false,
            is_forgetting: false,
            running: watch::Sender::new(0),
            changes: changes.clone(),
        })
        .shutdown_deadline(config.wind_down + STOP_GRACE)
    }

    /// Only one incarnation at a time uses the store, so this waits for nobody. The store is usable
    /// after a panic: the next incarnation fails what was running.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_job(
        &mut self,
        start: Start,
        context: &mut Context<Self>,
    ) -> Result<JobWatch, StartError> {
        if self.is_draining {
            return Err(StartError::Stopping);
        }
        let record = self.store().begin(&start)?;
        let (id, watch) = (record.id.clone(), record.watch());
        let status = record.status();
        tracing::info!(job = %id, kind = status.kind, description = status.description, "job started");
        let job = JobContext::new(record, start.deadline);
        // A set aborts its task when it is dropped, so no work outlives the incarnation.
        let mut task = JoinSet::new();
        task.spawn(run(start.work, job, self.config.wind_down));
        let ended = wrap_future::<_, Self>(async move { task.join_next().await });
        context.spawn(ended.map(move |ended, jobs, context| jobs.on_ended(&id, ended, context)));
        self.publish_running();
        Ok(watch)
    }

    fn on_ended(
        &mut self,
        id: &JobId,
        ended: Option<Result<Ending, JoinError>>,
        context: &mut Context<Self>,
    ) {
        let ending = match ended {
            Some(Ok(ending)) => ending,
            // The panic itself is in the log.
            Some(Err(error)) if error.is_panic() => {
                Ending::failed("its work panicked; see the log of the server")
            }
            Some(Err(_)) | None => Ending::failed("its work was aborted"),
        };
        self.store().end(id, ending);
        self.publish_running();
        self.forget_later(context);
    }

    /// Forgets each job that has ended when its age is reached.
    fn forget_later(&mut self, context: &mut Context<Self>) {
        if self.is_forgetting {
            return;
        }
        let Some(left) = self.store().time_to_forget() else {
            return;
        };
        self.is_forgetting = true;
        context.run_later(left, |jobs, context| {
            jobs.is_forgetting = false;
            jobs.store().forget();
            jobs.forget_later(context);
        });
    }

    fn publish_running(&self) {
        let running = self.store().running();
        self.running.send_replace(running);
        self.changes.publish();
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.store().cancel_all();
    }
}

impl Actor for Jobs {
    type Context = Context<Self>;
}

impl Child for Jobs {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        self.store().fail_running();
        // The timer of the last incarnation has ended with it.
        self.forget_later(context);
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn stop(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.drain();
        let mut running = self.running.subscribe();
        let all_ended = async move {
            // An error means that the actor has been dropped, with all of its jobs.
            running.wait_for(|running| *running == 0).await.ok();
        };
        Box::pin(wrap_future(all_ended))
    }

    fn observe(&self) -> Value {
        let store = self.store();
        json!({
            "running": store.running(),
            "finished": store.finished(),
            "followers": store.followers(),
        })
    }
}

impl Handler<Call<Start>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<Start>, context: &mut Context<Self>) {
        if let Some((start, reply)) = call.accept() {
            reply.send(self.start_job(start, context));
        }
    }
}

impl Handler<Call<List>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<List>, _context: &mut Context<Self>) {
        if let Some((List, reply)) = call.accept() {
            reply.send(self.store().list());
        }
    }
}

impl Handler<Call<Get>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<Get>, _context: &mut Context<Self>) {
        if let Some((Get { id }, reply)) = call.accept() {
            reply.send(self.store().find(&id).map(|record| record.status()));
        }
    }
}

impl Handler<Call<Cancel>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<Cancel>, _context: &mut Context<Self>) {
        if let Some((Cancel { id }, reply)) = call.accept() {
            let status = self.store().find(&id).map(|record| {
                record.cancel();
                record.status()
            });
            reply.send(status);
        }
    }
}

impl Handler<Call<Follow>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<Follow>, _context: &mut Context<Self>) {
        if let Some((Follow { id }, reply)) = call.accept() {
            reply.send(self.store().follow(&id));
        }
    }
}

impl Handler<Call<Drain>> for Jobs {
    type Result = ();

    fn handle(&mut self, call: Call<Drain>, _context: &mut Context<Self>) {
        if let Some((Drain, reply)) = call.accept() {
            self.drain();
            reply.send(());
        }
    }
}
