//! The owner of a chain: it serves the calls of requests, each in a task of its own.

use std::rc::Rc;
use std::sync::Arc;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::chains::{ChainDeps, ChainEntry};
use super::error::ChainError;
use super::messages::{ReadStatus, SearchLogs, Serve, SetDrained, Subscribe, Unsubscribe};
use super::provider::{Provider, Surroundings, Tls};
use super::serving::{Serving, Upstream};
use super::subscriptions::Hub;
use crate::kernel::pressure::{Action, PressureReader, Stage};
use crate::kernel::{Call, Child, ChildSpec, Exit, Message, Reply};

/// The owner of an open chain.
pub struct Chain {
    serving: Rc<Serving>,
    subscriptions: Rc<Hub>,
    pressure: PressureReader,
}

impl Chain {
    /// The providers of a chain, and its owner.
    pub(super) fn children(entry: &ChainEntry, deps: &ChainDeps) -> Vec<ChildSpec> {
        let config = Arc::clone(&entry.config);
        let mut children = Vec::new();
        let mut providers = Vec::new();
        let tls = Tls::default();
        for provider in &config.providers {
            let (heads, told) = watch::channel(None);
            let handle = Provider::handle(provider);
            let surroundings = Surroundings {
                chain: config.name.as_str().into(),
                chain_id: config.id,
                block_time: config.block_time,
                drained: entry
                    .drained
                    .get(&provider.name)
                    .cloned()
                    .unwrap_or_default(),
                heads,
                buffers: Arc::clone(&deps.buffers),
                pressure: deps.pressure.clone(),
                tls: tls.clone(),
            };
            let (child, view) = Provider::child(&handle, provider.clone(), surroundings);
            children.push(child);
            providers.push((provider.clone(), handle, view, told));
        }
        let deps = deps.clone();
        let owner = ChildSpec::actor(&entry.handle, move |_| {
            let upstreams = providers.iter().map(|(provider, handle, view, told)| {
                Upstream::new(provider, handle.clone(), Arc::clone(view), told.clone())
            });
            let serving = Serving::new(Arc::clone(&config), upstreams.collect(), &deps);
            let serving = Rc::new(serving);
            Self {
                subscriptions: Rc::new(Hub::new(Rc::clone(&serving))),
                serving,
                pressure: deps.pressure.clone(),
            }
        });
        children.push(owner);
        children
    }

    /// Gives memory of kept answers back when it is short.
    fn watch_pressure(&self, context: &mut Context<Self>) {
        let name = format!("chain:{}", self.serving.name());
        let mut subscription = self.pressure.subscribe(name, Stage::Caches);
        let serving = Rc::clone(&self.serving);
        let watch = async move {
            loop {
                let pressure = subscription.changed().await;
                let mut actions = Vec::new();
                let before_bytes = serving.kept_bytes();
                let goal = serving.follow_pressure(pressure);
                while !serving.shrink(goal) {
                    tokio::task::yield_now().await;
                }
                let after_bytes = serving.kept_bytes();
                if after_bytes < before_bytes {
                    actions.push(Action {
                        what: format!("kept answers of {}", serving.name()),
                        promised_bytes: before_bytes - after_bytes,
                        before_bytes,
                        after_bytes,
                    });
                }
                subscription.acknowledge(pressure.epoch, actions);
            }
        };
        context.spawn(wrap_future(watch));
    }

    /// Answers with what `work` ends with, or with `failed` if it panics, which ends no other work. A caller that leaves cancels it.
    fn answer<M: Message>(
        mut reply: Reply<M>,
        work: impl Future<Output = M::Reply> + 'static,
        failed: impl FnOnce() -> M::Reply + 'static,
        context: &mut Context<Self>,
    ) {
        let answer = async move {
            // The set aborts its task when it is dropped.
            let mut task = JoinSet::new();
            task.spawn_local(work);
            let done = tokio::select! {
                biased;
                () = reply.cancelled() => return,
                done = task.join_next() => done,
            };
            let done = done.and_then(Result::ok);
            reply.send(done.unwrap_or_else(failed));
        };
        context.spawn(wrap_future(answer).map(|(), _, _| ()));
    }
}

impl Actor for Chain {
    type Context = Context<Self>;
}

impl Child for Chain {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        for (provider, told) in self.serving.heads_told().enumerate() {
            let heads = stream::unfold(told, |mut told| async move {
                told.changed().await.ok()?;
                let head = *told.borrow_and_update();
                Some((head, told))
            });
            let heads = wrap_stream::<_, Self>(heads).map(move |head, chain, _| {
                if let Some(head) = head {
                    chain.serving.told(provider, &head);
                }
            });
            context.spawn(heads.finish());
        }
        self.watch_pressure(context);
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.serving.status()).unwrap_or(Value::Null)
    }
}

impl Handler<Call<Serve>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<Serve>, context: &mut Context<Self>) {
        let Some((serve, reply)) = call.accept() else {
            return;
        };
        let serving = Rc::clone(&self.serving);
        let (deadline, calls) = (reply.deadline(), serve.calls.len());
        let work = async move { serving.serve(&serve.calls, &serve.caller, deadline).await };
        let failed = move || (0..calls).map(|_| Err(ChainError::Panicked)).collect();
        Self::answer(reply, work, failed, context);
    }
}

impl Handler<Call<SearchLogs>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<SearchLogs>, context: &mut Context<Self>) {
        let Some((search, reply)) = call.accept() else {
            return;
        };
        let serving = Rc::clone(&self.serving);
        let work = async move { serving.stream_logs(&search).await };
        Self::answer(reply, work, || Err(ChainError::Panicked), context);
    }
}

impl Handler<Call<Subscribe>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<Subscribe>, context: &mut Context<Self>) {
        let Some((Subscribe { topic, sender }, reply)) = call.accept() else {
            return;
        };
        let ready = self.subscriptions.ready(&topic);
        let id = match self.subscriptions.subscribe(topic, sender) {
            Ok(id) => id,
            Err(refusal) => {
                reply.send(Err(refusal));
                return;
            }
        };
        // A caller that is answered misses nothing from then on.
        let ready = async move { (timeout_at(reply.deadline(), ready).await, reply) };
        let answer = wrap_future::<_, Self>(ready).map(move |(ready, reply), chain, _| {
            if !matches!(ready, Ok(Ok(()))) {
                // The caller does not learn of it.
                chain.subscriptions.unsubscribe(id);
            }
            if let Ok(ready) = ready {
                reply.send(ready.map(|()| id));
            }
        });
        context.spawn(answer);
    }
}

impl Handler<Call<Unsubscribe>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<Unsubscribe>, _: &mut Context<Self>) {
        if let Some((Unsubscribe { id }, reply)) = call.accept() {
            reply.send(self.subscriptions.unsubscribe(id));
        }
    }
}

impl Handler<Call<ReadStatus>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<ReadStatus>, _: &mut Context<Self>) {
        if let Some((ReadStatus, reply)) = call.accept() {
            reply.send(self.serving.status());
        }
    }
}

impl Handler<Call<SetDrained>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<SetDrained>, context: &mut Context<Self>) {
        let Some((wanted, reply)) = call.accept() else {
            return;
        };
        let serving = Rc::clone(&self.serving);
        let within = reply.remaining();
        let set = async move {
            let set = serving.set_drained(&wanted.provider, wanted.is_drained, within);
            reply.send(set.await);
        };
        context.spawn(wrap_future(set).map(|(), _, _| ()));
    }
}
