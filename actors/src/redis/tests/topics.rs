//! Topics: whoever was told that it listens hears everything from then on, or is told what it misses.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::super::{Event, Server, Subscribe, Topic, Topology, pipe};
use super::faults::server_behind;
use super::network::{Instance, SentinelSetup, at_cluster, at_sentinels, cluster, eventually};
use super::server::{RealServer, SECOND};
use super::subscribing::{RunningSubscriber, channel, message, next};
use crate::kernel::pool::ConnectErrorKind;
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::{Fault, Proxy};

/// Longer than any message takes, and much shorter than a test may take.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_listener_after_two_dropped_overlapping_ones_hears() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let here = Topology::One(ServerUrl::Configured(instance.url())).into();
        let running = RunningSubscriber::at(&system, here, server_behind(&proxy)).await;
        let kept = running.listen(channel("kept")).await;
        let delay = Duration::from_millis(20);
        proxy.set_faults(Fault::Delay(delay), Fault::None);
        for round in 0..5 {
            // The answer to the second listener comes after both have been dropped.
            let late = async {
                sleep(delay / 2).await;
                let topic = channel("news");
                timeout(
                    delay * 3 / 4,
                    running.subscriber.ask(Subscribe { topic }, SECOND),
                )
                .await
            };
            let (first, second) = tokio::join!(running.listen(channel("news")), late);
            drop((first, second));
            sleep(delay * 3 / 4).await;
            let mut third = running.listen(channel("news")).await;
            let text = round.to_string();
            running.publish("news", &text).await;
            let heard = timeout(HEARD_WITHIN, next(&mut third)).await;
            assert_eq!(heard.expect("it is deaf"), message("news", &text));
        }
        drop(kept);
        running.root.stop().await;
    });
}

#[test]
fn what_is_published_after_listen_returned_is_heard_under_churn() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let callers = (0..8u32).map(async |caller| {
            for round in 0..100 {
                let name = format!("topic-{}", (caller + round) % 4);
                let listen = || running.listen(channel(&name));
                drop(tokio::join!(listen(), listen()));
                let mut subscription = listen().await;
                let own = message(&name, &format!("{caller}:{round}"));
                running.publish(&name, &format!("{caller}:{round}")).await;
                let heard = timeout(HEARD_WITHIN, async {
                    while next(&mut subscription).await != own {}
                });
                assert!(heard.await.is_ok(), "{own:?} was not heard");
            }
        });
        join_all(callers).await;
        let status = running.status().await;
        assert_eq!((status.dropped, status.failures), (0, 0), "{status:?}");
        running.root.stop().await;
    });
}

#[test]
fn the_connection_ends_when_the_last_caller_leaves_before_its_answer() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let here = Topology::One(ServerUrl::Configured(instance.url())).into();
        let running = RunningSubscriber::at(&system, here, server_behind(&proxy)).await;
        let first = running.listen(channel("first")).await;
        proxy.set_faults(Fault::Delay(SECOND / 5), Fault::None);
        // While somebody waits for the second topic, the last subscription is dropped.
        let topic = channel("second");
        let asked = running.subscriber.ask(Subscribe { topic }, 20 * SECOND);
        let dropped = async {
            sleep(Duration::from_millis(20)).await;
            drop(first);
        };
        let left = timeout(SECOND / 10, async { tokio::join!(asked, dropped) }).await;
        drop(left);
        eventually("the end of the connection", async || {
            !running.status().await.connected
        })
        .await;
        running.root.stop().await;
    });
}

#[test]
fn a_listener_that_does_not_read_is_told_that_messages_are_missing() {
    TestSystem::real_time(|system| async move {
        let server = RealServer::start(&[]);
        let running = RunningSubscriber::open(&system, &server).await;
        let mut news = running.listen(channel("news")).await;
        let mut publishes = pipe();
        for number in 0..1100 {
            publishes.cmd("PUBLISH").arg("news").arg(number).ignore();
        }
        let () = running
            .redis
            .pipeline(&publishes, 10 * SECOND)
            .await
            .unwrap();
        eventually("all messages", async || {
            running.status().await.messages == 1100
        })
        .await;
        for number in 0..1024 {
            assert_eq!(next(&mut news).await, message("news", &number.to_string()));
        }
        assert_eq!(next(&mut news).await, Event::Gap);
        assert_eq!(running.status().await.dropped, 76);
        running.publish("news", "on").await;
        assert_eq!(next(&mut news).await, message("news", "on"));
        running.root.stop().await;
    });
}

/// The user `listener` of a server.
fn as_listener(instance: &Instance) -> Server {
    let url = format!("redis://listener:word@127.0.0.1:{}", instance.port());
    Topology::One(ServerUrl::Configured(url)).into()
}

#[test]
fn a_forbidden_topic_ends_alone() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let allow = |channels: &[&str]| {
            // Without CLIENT and PING, which the subscriber can do without.
            let user = ["ACL", "SETUSER", "listener", "on", ">word", "+@all"];
            let user = [&user[..], &["-client", "-ping", "resetchannels"], channels].concat();
            assert_eq!(instance.ask(&user), "OK");
        };
        allow(&["&allowed", "&forbidden", "&f*"]);
        let here = Topology::One(ServerUrl::Configured(instance.url())).into();
        let running = RunningSubscriber::at(&system, here, as_listener(&instance)).await;
        let mut allowed = running.listen(channel("allowed")).await;
        let mut forbidden = running.listen(channel("forbidden")).await;
        let mut pattern = running.listen(Topic::Pattern("f*".to_owned())).await;
        // Redis closes the connection of a user who may not receive all of its topics any more.
        allow(&["&allowed"]);
        assert_eq!(next(&mut allowed).await, Event::Gap);
        for ended in [&mut forbidden, &mut pattern] {
            assert_eq!(next(ended).await, Event::Refused);
            assert_eq!(ended.next().await, None);
        }
        assert_eq!(running.publish("allowed", "one").await, 1);
        assert_eq!(next(&mut allowed).await, message("allowed", "one"));
        // On the connection that is open: the caller gets the error, and nobody else notices.
        let topic = channel("forbidden");
        let refused = running
            .subscriber
            .ask(Subscribe { topic }, 20 * SECOND)
            .await;
        let error = refused.unwrap().unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Denied, "{error}");
        assert_eq!(running.publish("allowed", "two").await, 1);
        assert_eq!(next(&mut allowed).await, message("allowed", "two"));
        let status = running.status().await;
        assert!(status.connected, "{status:?}");
        assert_eq!(
            (status.connects, status.refused, status.listeners),
            (2, 3, 1)
        );
        // A refused check shows that the connection works.
        sleep(SECOND).await;
        assert_eq!(running.status().await.connects, 2);
        // It is allowed again.
        allow(&["&allowed", "&forbidden"]);
        let mut again = running.listen(channel("forbidden")).await;
        running.publish("forbidden", "three").await;
        assert_eq!(next(&mut again).await, message("forbidden", "three"));
        running.root.stop().await;
    });
}

#[test]
fn many_topics_are_subscribed_at_once_after_a_reconnect() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let here = Topology::One(ServerUrl::Configured(instance.url())).into();
        let running = RunningSubscriber::at(&system, here, server_behind(&proxy)).await;
        let listens = (0..200).map(|number| running.listen(channel(&number.to_string())));
        let mut all = join_all(listens).await;
        // One after the other, the answers would take 20 s, and a connect may take 1 s.
        proxy.set_faults(Fault::Close, Fault::Delay(Duration::from_millis(100)));
        for (number, subscription) in all.iter_mut().enumerate() {
            assert_eq!(next(subscription).await, Event::Gap);
            let name = number.to_string();
            assert_eq!(running.publish(&name, "back").await, 1);
            assert_eq!(next(subscription).await, message(&name, "back"));
        }
        running.root.stop().await;
    });
}

#[test]
fn the_subscribed_connection_has_a_name_wherever_it_is() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let watched = SentinelSetup::start().await;
        let nodes = cluster().await;
        for (server, instance) in [
            (Topology::One(ServerUrl::Configured(one.url())).into(), &one),
            (at_sentinels(watched.nodes()), &watched.primary),
            (at_cluster(vec![nodes[1].node()]), &nodes[1]),
        ] {
            let running = RunningSubscriber::at(&system, server.clone(), server).await;
            let subscription = running.listen(channel("news")).await;
            let clients = instance.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]);
            let name = " name=headroom:redis-subscriber ";
            // Sentinels subscribe to the master too.
            assert_eq!(clients.matches(name).count(), 1, "{clients}");
            drop(subscription);
            running.root.stop().await;
        }
    });
}

#[test]
fn a_connection_that_was_given_up_delivers_nothing_any_more() {
    TestSystem::real_time(|system| async move {
        let instance = Instance::start(&[]).await;
        let proxy = Proxy::start(instance.address()).await;
        let here = Topology::One(ServerUrl::Configured(instance.url())).into();
        let running = RunningSubscriber::at(&system, here, server_behind(&proxy)).await;
        let mut news = running.listen(channel("news")).await;
        proxy.set_faults(Fault::Blackhole, Fault::None);
        // The command in flight keeps the old connection open for a while.
        let mut sport = running.listen(channel("sport")).await;
        assert_eq!(next(&mut news).await, Event::Gap);
        proxy.set_faults(Fault::None, Fault::None);
        for name in ["news", "sport"] {
            running.publish(name, "on").await;
        }
        assert_eq!(next(&mut news).await, message("news", "on"));
        assert_eq!(next(&mut sport).await, message("sport", "on"));
        let twice = timeout(SECOND / 5, news.next()).await;
        assert!(twice.is_err(), "{twice:?}");
        running.root.stop().await;
    });
}
