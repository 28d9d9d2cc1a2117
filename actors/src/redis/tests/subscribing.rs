//! Subscriptions, and that none is lost.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::super::Redis;
use super::super::{
    Event, Listen, Role, Subscriber, SubscriberConfig, SubscriberQuery, SubscriberStatus,
    Subscription, Topic, cmd, pool, pool_config,
};
use super::server::{RealServer, SECOND};
use crate::kernel::testing::Universe;
use crate::kernel::{Backoff, Handle, Root, SupervisorSpec};

struct Post {
    root: Root,
    subscriber: Handle<Subscriber>,
    redis: Redis,
}

impl Post {
    async fn open(universe: &Universe, server: &RealServer) -> Self {
        let (handle, child) = pool(Role::Primary, server.place(), pool_config(), None);
        let subscriber = Subscriber::handle();
        let backoff = Backoff::try_new(Duration::from_millis(10), SECOND / 5, SECOND).unwrap();
        let config = SubscriberConfig {
            connect_timeout: 5 * SECOND,
            check_after_idle: SECOND / 5,
            answer_within: SECOND / 2,
            backoff,
        };
        let listening = Subscriber::child(&subscriber, server.place(), config);
        let spec = SupervisorSpec::new("post").child(child).child(listening);
        Self {
            root: universe.start(spec).await,
            subscriber,
            redis: Redis::new(handle),
        }
    }

    async fn listen(&self, topic: Topic) -> Subscription {
        let asked = self.subscriber.ask(Listen { topic }, 20 * SECOND).await;
        asked.unwrap().unwrap()
    }

    /// Publishes until the server takes it, and says to how many it went.
    async fn publish(&self, channel: &str, text: &str) -> u64 {
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

    async fn status(&self) -> SubscriberStatus {
        self.subscriber.ask(SubscriberQuery, SECOND).await.unwrap()
    }
}

fn channel(name: &str) -> Topic {
    Topic::Channel(name.to_owned())
}

async fn next(subscription: &mut Subscription) -> Event {
    let next = timeout(20 * SECOND, subscription.next()).await;
    next.expect("an event in time").expect("a running room")
}

fn message(channel: &str, text: &str) -> Event {
    Event::Message {
        channel: channel.to_owned(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

#[test]
fn no_subscription_is_lost_in_twenty_reconnects() {
    Universe::real_time(|universe| async move {
        let server = RealServer::start(&[]);
        let post = Post::open(&universe, &server).await;
        let mut news = post.listen(channel("news")).await;
        let mut sport = post.listen(channel("sport")).await;
        let mut all = post.listen(Topic::Pattern("n*".to_owned())).await;
        for round in 0..20 {
            let text = round.to_string();
            assert_eq!(post.publish("news", &text).await, 2);
            assert_eq!(post.publish("sport", &text).await, 1);
            assert_eq!(next(&mut news).await, message("news", &text));
            assert_eq!(next(&mut all).await, message("news", &text));
            assert_eq!(next(&mut sport).await, message("sport", &text));
            let mut kill = cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("pubsub");
            let killed: u64 = post.redis.command(&kill, SECOND).await.unwrap();
            assert_eq!(killed, 1);
            for subscription in [&mut news, &mut sport, &mut all] {
                assert_eq!(next(subscription).await, Event::Gap);
            }
        }
        assert_eq!(post.publish("news", "end").await, 2);
        assert_eq!(next(&mut news).await, message("news", "end"));
        let status = post.status().await;
        assert_eq!(
            (status.connects, status.topics, status.listeners),
            (21, 3, 3)
        );
        post.root.stop().await;
    });
}

#[test]
fn subscriptions_come_back_with_a_killed_server() {
    Universe::real_time(|universe| async move {
        let mut server = RealServer::start(&[]);
        let post = Post::open(&universe, &server).await;
        let mut news = post.listen(channel("news")).await;
        server.kill();
        server.run();
        assert_eq!(next(&mut news).await, Event::Gap);
        assert_eq!(post.publish("news", "back").await, 1);
        assert_eq!(next(&mut news).await, message("news", "back"));
        post.root.stop().await;
        assert_eq!(news.next().await, None);
    });
}

#[test]
fn a_subscription_ends_with_its_last_listener() {
    Universe::real_time(|universe| async move {
        let server = RealServer::start(&[]);
        let post = Post::open(&universe, &server).await;
        let first = post.listen(channel("news")).await;
        let mut second = post.listen(channel("news")).await;
        let other = post.listen(channel("sport")).await;
        drop(first);
        assert_eq!(post.publish("news", "one").await, 1);
        assert_eq!(next(&mut second).await, message("news", "one"));
        drop(second);
        let end = Instant::now() + 20 * SECOND;
        while post.publish("news", "two").await > 0 {
            assert!(Instant::now() < end, "it never ended");
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(post.publish("sport", "three").await, 1);
        drop(other);
        while post.status().await.connected {
            assert!(Instant::now() < end, "it keeps a connection for nobody");
            sleep(Duration::from_millis(5)).await;
        }
        // And begins again.
        let mut again = post.listen(channel("news")).await;
        assert_eq!(post.publish("news", "four").await, 1);
        assert!(matches!(
            next(&mut again).await,
            Event::Gap | Event::Message { .. }
        ));
        post.root.stop().await;
    });
}
