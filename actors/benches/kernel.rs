//! The cost of the kernel: a call and its answer, a start and a stop, a restart after a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler};
use actix_rt::{Arbiter, System, SystemRunner};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use headroom_actors::kernel::{
    AskError, Backoff, Call, Child, ChildSpec, Handle, Message, Root, SupervisorSpec, Tree,
};

const LONG: Duration = Duration::from_secs(60);

struct Echo;

impl Actor for Echo {
    type Context = Context<Self>;
}

impl Child for Echo {}

enum Request {
    Echo(u64),
    Panic,
}

impl Message for Request {
    type Reply = u64;
}

impl Handler<Call<Request>> for Echo {
    type Result = ();

    fn handle(&mut self, call: Call<Request>, _: &mut Context<Self>) {
        match call.accept() {
            Some((Request::Echo(number), reply)) => reply.send(number),
            Some((Request::Panic, _)) => panic!("requested"),
            None => {}
        }
    }
}

fn handle() -> Handle<Echo> {
    Handle::new("echo", 256)
}

/// Starts one child under a root that restarts it without limit, and measures `work` on it.
fn bench<F: Future<Output = ()>>(
    criterion: &mut Criterion,
    name: &str,
    handle: &Handle<Echo>,
    child: ChildSpec,
    work: impl Fn(Handle<Echo>, u64) -> F,
) {
    let system = System::new();
    let spec = SupervisorSpec::new("root")
        .intensity(u32::MAX, Duration::from_nanos(1))
        .child(child);
    let root = system.block_on(Root::start(spec, &Tree::default()));
    let root = root.unwrap_or_else(|exit| panic!("{exit}"));
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|times| timed(&system, work(handle.clone(), times)));
    });
    system.block_on(root.stop());
}

fn timed(system: &SystemRunner, work: impl Future<Output = ()>) -> Duration {
    let begun = Instant::now();
    system.block_on(work);
    begun.elapsed()
}

async fn one_caller(handle: Handle<Echo>, times: u64) {
    for number in 0..times {
        assert_eq!(handle.ask(Request::Echo(number), LONG).await, Ok(number));
    }
}

async fn many_callers(handle: Handle<Echo>, times: u64) {
    join_all((0..64).map(|caller| {
        let share = times / 64 + u64::from(caller < times % 64);
        one_caller(handle.clone(), share)
    }))
    .await;
}

fn asks(criterion: &mut Criterion) {
    let echo = handle();
    let child = || ChildSpec::actor(&echo, |_| Echo);
    bench(criterion, "ask, same thread", &echo, child(), one_caller);
    bench(
        criterion,
        "ask, same thread, 64 callers",
        &echo,
        child(),
        many_callers,
    );
    let system = System::new();
    let thread = Arbiter::new();
    let spec = SupervisorSpec::new("root").child(child());
    thread.spawn(async move {
        let root = Root::start(spec, &Tree::default()).await;
        let root = root.unwrap_or_else(|exit| panic!("{exit}"));
        root.failed().await;
    });
    assert!(system.block_on(echo.running(LONG)));
    criterion.bench_function("ask, other thread", |bencher| {
        bencher.iter_custom(|times| timed(&system, one_caller(echo.clone(), times)));
    });
    criterion.bench_function("ask, other thread, 64 callers", |bencher| {
        bencher.iter_custom(|times| timed(&system, many_callers(echo.clone(), times)));
    });
    thread.stop();
    thread.join().unwrap();
}

fn start_and_stop(criterion: &mut Criterion) {
    let system = System::new();
    let spec = SupervisorSpec::new("root");
    let supervisor = spec.handle();
    let root = system.block_on(Root::start(spec, &Tree::default()));
    let root = root.unwrap_or_else(|exit| panic!("{exit}"));
    let echo = handle();
    criterion.bench_function("start_child and terminate_child", |bencher| {
        bencher.iter_custom(|times| {
            timed(&system, async {
                for _ in 0..times {
                    let spec = ChildSpec::actor(&echo, |_| Echo);
                    supervisor.start_child(spec).await.unwrap();
                    supervisor.terminate_child("echo").await.unwrap();
                }
            })
        });
    });
    system.block_on(root.stop());
}

fn restart(criterion: &mut Criterion) {
    // The panics are meant: their reports would only hide the figures.
    std::panic::set_hook(Box::new(|_| {}));
    let echo = handle();
    let least = Duration::from_nanos(1);
    let backoff = Backoff::try_new(least, least, LONG).unwrap();
    let child = ChildSpec::actor(&echo, |_| Echo).backoff(backoff);
    bench(
        criterion,
        "restart after a panic",
        &echo,
        child,
        |echo, times| async move {
            for _ in 0..times {
                assert_eq!(echo.ask(Request::Panic, LONG).await, Err(AskError::Lost));
                assert!(echo.running(LONG).await);
            }
        },
    );
}

criterion_group! {
    name = kernel;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .sample_size(40);
    targets = asks, start_and_stop, restart
}
criterion_main!(kernel);
