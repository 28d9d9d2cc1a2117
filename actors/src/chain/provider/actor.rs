//! The actor that owns all connections to one provider.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::endpoint::{TransportError, WsTarget};
use super::exchange::exchange;
use super::fault::Fault;
use super::health::look_after;
use super::messages::{ReadStatus, Send, SetDrained};
use super::shared::{CallGuard, RequestGuard, Shared};
use super::subscription::follow_heads;
use super::tls::Tls;
use super::transport::Transport;
use super::view::{Head, View};
use crate::chain::config::ProviderConfig;
use crate::chain::methods::Method;
use crate::kernel::pressure::{PressureReader, Stage};
use crate::kernel::{Buffers, Call, Child, ChildSpec, Exit, Handle, Reply};

/// Calls for the state, beside those that are sent.
const OTHER_CALLS_MAX: u32 = 64;

/// What a provider belongs to.
#[derive(Clone)]
pub struct Surroundings {
    /// The name of the chain, for metrics and the log.
    pub chain: Arc<str>,
    /// The id that the provider must tell.
    pub chain_id: u64,
    /// The time between two blocks.
    pub block_time: Duration,
    /// Whether it is out of use. It outlives the provider.
    pub drained: Arc<AtomicBool>,
    /// Gets each newest block of the provider.
    pub heads: watch::Sender<Option<Head>>,
    /// The account for answers.
    pub buffers: Arc<dyn Buffers>,
    /// When memory is short, idle connections are closed.
    pub pressure: PressureReader,
    /// What is trusted for TLS.
    pub tls: Tls,
}

/// A call that is about to be sent, and who waits for it.
struct Waiting {
    call: Arc<crate::chain::rpc::Call>,
    reply: Reply<Send>,
    guard: CallGuard,
}

/// The owner of the connections. The module's documentation lists its guarantees.
pub struct Provider {
    shared: Arc<Shared>,
    surroundings: Surroundings,
    /// From the start on.
    transport: Option<Transport>,
    /// Calls that wait for others that go with them.
    waiting: Vec<Waiting>,
}

impl Provider {
    /// Makes a handle for an actor with `config`.
    pub fn handle(config: &ProviderConfig) -> Handle<Self> {
        let calls = config.in_flight_max.saturating_mul(config.batch_max.max(1));
        Handle::new(&*config.name, calls.saturating_add(OTHER_CALLS_MAX))
    }

    /// Makes the child spec of the actor, and what others may know of it without a call. Both outlive restarts.
    pub fn child(
        handle: &Handle<Self>,
        config: ProviderConfig,
        surroundings: Surroundings,
    ) -> (ChildSpec, Arc<dyn View>) {
        let shared = Arc::new(Shared::new(
            Arc::clone(&surroundings.chain),
            config,
            surroundings.chain_id,
            surroundings.block_time,
            Arc::clone(&surroundings.drained),
            surroundings.heads.clone(),
        ));
        let view: Arc<dyn View> = Arc::new(Arc::clone(&shared));
        let spec = ChildSpec::actor(handle, move |_| Self {
            shared: Arc::clone(&shared),
            surroundings: surroundings.clone(),
            transport: None,
            waiting: Vec::new(),
        });
        (spec, view)
    }

    fn send(&mut self, send: Send, reply: Reply<Send>, context: &mut Context<Self>) {
        let now = Instant::now();
        let method = &send.call.method;
        let admitted = self.shared.admit(method, Method::of(method).weight, now);
        let guard = match admitted {
            Ok(guard) => guard,
            Err(unused) => return reply.send(Err(unused.into())),
        };
        self.waiting.push(Waiting {
            call: send.call,
            reply,
            guard,
        });
        let batch_max = self.shared.batch_max(now);
        if self.waiting.len() >= batch_max {
            self.flush(context);
        } else if self.waiting.len() == 1 {
            self.shared.state().gathers = true;
            context.run_later(self.shared.config.batch_wait, Self::flush);
        }
    }

    /// Sends the calls that wait, as one request.
    fn flush(&mut self, context: &mut Context<Self>) {
        self.shared.state().gathers = false;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|waiting| !waiting.reply.is_cancelled());
        let Some(transport) = self.transport.clone().filter(|_| !waiting.is_empty()) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        // It counts from now on: calls that are handled before the request begins must see it.
        let request = shared.begin_request();
        context.spawn(wrap_future(run(shared, transport, waiting, request)));
    }

    /// Closes idle connections when memory is short.
    fn watch_pressure(&self, context: &mut Context<Self>) {
        let shared = &self.shared;
        let name = format!("{}/{}", shared.chain, shared.config.name);
        let pressure = &self.surroundings.pressure;
        let subscription = pressure.subscribe(name, Stage::Connections);
        let changes = stream::unfold(subscription, |mut subscription| async move {
            let pressure = subscription.changed().await;
            // What an idle connection takes is not measured.
            subscription.acknowledge(pressure.epoch, Vec::new());
            Some((pressure, subscription))
        });
        let closed = wrap_stream::<_, Self>(changes).map(|pressure, provider, _| {
            if pressure.asks(Stage::Connections)
                && let Some(transport) = &provider.transport
            {
                transport.close_idle();
            }
        });
        context.spawn(closed.finish());
    }
}

/// Sends calls as one request and answers those who wait. Gives up when nobody waits any more.
async fn run(
    shared: Arc<Shared>,
    transport: Transport,
    mut waiting: Vec<Waiting>,
    request: RequestGuard,
) {
    let calls: Vec<_> = waiting.iter().map(|it| Arc::clone(&it.call)).collect();
    let results = tokio::select! {
        biased;
        results = exchange(&shared, &transport, &calls) => results,
        () = all_gone(&mut waiting) => return,
    };
    // Whoever has its answer may send the next call.
    drop(request);
    let mut results = results.into_iter();
    for waiting in waiting {
        let missing = || Err(Fault::NotRpc("an answer is missing"));
        drop(waiting.guard);
        waiting.reply.send(results.next().unwrap_or_else(missing));
    }
}

/// Waits until nobody waits any more.
async fn all_gone(waiting: &mut [Waiting]) {
    poll_fn(|context| {
        let mut are_gone = true;
        for waiting in waiting.iter_mut() {
            are_gone &= waiting.reply.poll_cancelled(context).is_ready();
        }
        match are_gone {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

impl Actor for Provider {
    type Context = Context<Self>;
}

impl Child for Provider {
    fn start(&mut self, _: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let (shared, surroundings) = (Arc::clone(&self.shared), self.surroundings.clone());
        let open = async move {
            let connects = Arc::clone(&shared.connects);
            let Surroundings { tls, buffers, .. } = surroundings;
            let socket = WsTarget::of(&shared.config)?;
            let transport = Transport::new(&shared.config, &tls, buffers, connects).await?;
            Ok::<_, TransportError>((transport, socket))
        };
        let opened = wrap_future::<_, Self>(open).map(|opened, provider, context| {
            let (transport, socket) = opened.map_err(Exit::error)?;
            provider.transport = Some(transport.clone());
            let mut state = provider.shared.state();
            state.used_at = Instant::now();
            state.gathers = false;
            state.subscribed = false;
            drop(state);
            provider.watch_pressure(context);
            let shared = Arc::clone(&provider.shared);
            context.spawn(wrap_future(look_after(shared, transport)));
            if let Some(socket) = socket {
                let (shared, tls) = (
                    Arc::clone(&provider.shared),
                    provider.surroundings.tls.clone(),
                );
                context.spawn(wrap_future(follow_heads(shared, socket, tls)));
            }
            Ok(())
        });
        Box::pin(opened)
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.shared.status(Instant::now())).unwrap_or(Value::Null)
    }
}

impl Handler<Call<Send>> for Provider {
    type Result = ();

    fn handle(&mut self, call: Call<Send>, context: &mut Context<Self>) {
        if let Some((send, reply)) = call.accept() {
            self.send(send, reply, context);
        }
    }
}

impl Handler<Call<SetDrained>> for Provider {
    type Result = ();

    fn handle(&mut self, call: Call<SetDrained>, _: &mut Context<Self>) {
        let Some((SetDrained(is_drained), reply)) = call.accept() else {
            return;
        };
        self.shared.drained.store(is_drained, SeqCst);
        self.shared.state().used_at = Instant::now();
        self.shared.wake();
        self.shared.meters.state(&self.shared);
        reply.send(());
    }
}

impl Handler<Call<ReadStatus>> for Provider {
    type Result = ();

    fn handle(&mut self, call: Call<ReadStatus>, _: &mut Context<Self>) {
        if let Some((ReadStatus, reply)) = call.accept() {
            reply.send(self.shared.status(Instant::now()));
        }
    }
}
