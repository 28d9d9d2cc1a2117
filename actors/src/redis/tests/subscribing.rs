//! Subscriptions: none is lost.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::super::{
    Event, PubSub, Redis, Role, Server, Subscribe, Subscriber, SubscriberConfig, SubscriberQuery,
    SubscriberStatus, Subscription, Topic, Topology, cmd, pool, pool_config,
};
use super::faults::server_behind;
use super::network::{Instance, SentinelSetup, at_cluster, at_sentinels, cluster, eventually};
use super::server::{RealServer, SECOND};
use crate::kernel::pool::ConnectErrorKind;
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};
use crate::kernel::{Backoff, Handle, Root, SupervisorSpec};

pub(super) struct RunningSubscriber {
    pub(super) root: Root,
    pub(super) subscriber: Handle<Subscriber>,
    pub(super) redis: Redis,
}

impl RunningSubscriber {
    pub(super) async fn open(system: &TestSystem, server: &RealServer) -> Self {
        Self::at(system, server.server(), server.server()).await
    }

    /// Publishes to `here` and subscribes at `there`.
    pub(super) async fn at(system: &TestSystem, here: Server, there: Server) -> Self {
        let (handle, child) = pool(Role::Primary, here, pool_config(), None);
        let subscriber = Subscriber::handle();
        let backoff = Backoff::try_new(Duration::from_millis(10), SECOND / 5, SECOND).unwrap();
        let config = SubscriberConfig {
            connect_timeout: SECOND,
            check_after_idle: SECOND / 5,
            check_timeout: SECOND / 2,
            backoff,
        };
        let listening = Subscriber::child(&subscriber, there, config);
        let spec = SupervisorSpec::new("running").child(child).child(listening);
        Self {
            root: system.start(spec).await,
            subscriber,
            redis: Redis::new(handle),
        }
    }

    pub(super) async fn listen(&self, topic: Topic) -> Subscription {
        let asked = self.subscriber.ask(Subscribe { topic }, 20 * SECOND).await;
        asked.unwrap().unwrap()
    }

    /// Publishes until that succeeds. Returns the number of receivers.
    pub(super) async fn publish(&self, channel: &str, text: &str) -> u64 {
        let end = Instant::now() + 20 * SECOND;
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg(text);
        loop {
            match self.redis.command(&publish, SECOND).await {
                Ok(receivers) => return receivers,
                Err(error) if Instant::now() > end => panic!("{error}"),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub(super) async fn status(&self) -> SubscriberStatus {
        self.subscriber.ask(SubscriberQuery, SECOND).await.unwrap()
    }
}

pub(super) fn channel(name: &str) -> Topic {
    Topic::Channel(name.to_owned())
}

pub(super) async fn next(subscription: &mut Subscription) -> Event {
    let next = timeout(20 * SECOND, subscription.next()).await;
    next.expect("an event in time")
        .expect("a running subscriber")
}

pub(super) fn message(channel: &str, text: &str) -> Event {
    Event::Message {
        channel: channel.to_owned(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

#[test]
fn no_subscription_is_lost_in_twenty_reconnects() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let mut news = running.listen(channel("news")).await;
        let mut sport = running.listen(channel("sport")).await;
        let mut all = running.listen(Topic::Pattern("n*".to_owned())).await;
        for round in 0..20 {
            let text = round.to_string();
            assert_eq!(running.publish("news", &text).await, 2);
            assert_eq!(running.publish("sport", &text).await, 1);
            assert_eq!(next(&mut news).await, message("news", &text));
            assert_eq!(next(&mut all).await, message("news", &text));
            assert_eq!(next(&mut sport).await, message("sport", &text));
            let mut kill = cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("pubsub");
            let killed: u64 = running.redis.command(&kill, SECOND).await.unwrap();
            assert_eq!(killed, 1);
            for subscription in [&mut news, &mut sport, &mut all] {
                assert_eq!(next(subscription).await, Event::Gap);
            }
        }
        assert_eq!(running.publish("news", "end").await, 2);
        assert_eq!(next(&mut news).await, message("news", "end"));
        let status = running.status().await;
        assert_eq!(
            (status.connects, status.topics, status.listeners),
            (21, 3, 3)
        );
        running.root.stop().await;
    });
}

#[test]
fn subscriptions_come_back_with_a_killed_server() {
    TestSystem::real_time(|system| async move {
        let mut server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let mut news = running.listen(channel("news")).await;
        server.kill();
        server.run();
        assert_eq!(next(&mut news).await, Event::Gap);
        assert_eq!(running.publish("news", "back").await, 1);
        assert_eq!(next(&mut news).await, message("news", "back"));
        running.root.stop().await;
        assert_eq!(news.next().await, None);
    });
}

#[test]
fn a_subscription_ends_with_its_last_listener() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let first = running.listen(channel("news")).await;
        let mut second = running.listen(channel("news")).await;
        let other = running.listen(channel("sport")).await;
        drop(first);
        assert_eq!(running.publish("news", "one").await, 1);
        assert_eq!(next(&mut second).await, message("news", "one"));
        drop(second);
        let end = Instant::now() + 20 * SECOND;
        while running.publish("news", "two").await > 0 {
            assert!(Instant::now() < end, "it never ended");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(running.publish("sport", "three").await, 1);
        drop(other);
        while running.status().await.connected {
            assert!(Instant::now() < end, "it keeps an unused connection");
            sleep(Duration::from_millis(5)).await;
        }
        // And begins again.
        let mut again = running.listen(channel("news")).await;
        assert_eq!(running.publish("news", "four").await, 1);
        assert!(matches!(
            next(&mut again).await,
            Event::Gap | Event::Message { .. }
        ));
        running.root.stop().await;
    });
}

#[test]
fn a_connection_that_is_lost_without_notice_is_found_and_replaced() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let here = Topology::One(ServerUrl::Configured(instance.url().to_owned())).into();
        let running = RunningSubscriber::at(&system, here, server_behind(&proxy)).await;
        let mut news = running.listen(channel("news")).await;
        // A silent connection that is alive stays open.
        sleep(SECOND).await;
        assert_eq!(running.status().await.connects, 1);
        for new in [Fault::None, Fault::Blackhole] {
            proxy.set_faults(Fault::Blackhole, new);
            let cut = Instant::now();
            if new == Fault::Blackhole {
                sleep(2 * SECOND).await;
                proxy.set_faults(Fault::Blackhole, Fault::None);
            }
            assert_eq!(next(&mut news).await, Event::Gap);
            let took = cut.elapsed();
            println!("replaced {took:?} after the fault, with {new:?} for new connections");
            assert!(took < 5 * SECOND, "{took:?}");
            running.publish("news", "again").await;
            assert_eq!(next(&mut news).await, message("news", "again"));
        }
        running.root.stop().await;
    });
}

#[test]
fn messages_arrive_with_one_server_with_sentinels_and_in_a_cluster() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let watched = SentinelSetup::start().await;
        let nodes = cluster().await;
        // The subscriber skips a node that is not there.
        let mut dead = Instance::start(&[]).await;
        dead.kill();
        let named = vec![dead.node(), nodes[1].node()];
        for server in [
            Topology::One(ServerUrl::Configured(one.url().to_owned())).into(),
            at_sentinels(watched.nodes()),
            at_cluster(named),
        ] {
            let running = RunningSubscriber::at(&system, server.clone(), server.clone()).await;
            assert!(
                !running.status().await.connected,
                "before the first subscription"
            );
            let pubsub = PubSub::new(running.redis.clone(), running.subscriber.clone());
            for _ in 0..3 {
                pubsub.round_trip(10 * SECOND).await.unwrap();
            }
            let status = running.status().await;
            assert!(status.messages >= 3, "{status:?}");
            running.root.stop().await;
        }
    });
}

#[test]
fn the_longest_deadline_is_accepted_for_messages() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let pubsub = PubSub::new(running.redis.clone(), running.subscriber.clone());
        let max = Duration::MAX;
        let mut news = pubsub.subscribe(channel("news"), max).await.unwrap();
        pubsub.publish("news", "on", max).await.unwrap();
        assert_eq!(next(&mut news).await, message("news", "on"));
        pubsub.round_trip(max).await.unwrap();
        pubsub.status(max).await.unwrap();
        running.root.stop().await;
    });
}

#[test]
fn the_subscriptions_are_bounded() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let mut all = Vec::new();
        for number in 0..32u32 {
            let topic = number.to_string();
            let some = (0..128).map(|_| running.listen(channel(&topic)));
            all.extend(join_all(some).await);
        }
        let listen = || {
            let topic = channel("news");
            running.subscriber.ask(Subscribe { topic }, 20 * SECOND)
        };
        let error = listen().await.unwrap().unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Refused, "{error}");
        drop(all);
        eventually("room", async || listen().await.unwrap().is_ok()).await;
        running.root.stop().await;
    });
}
