//! Notifications.

use super::*;
use crate::kernel::testing::proxy::Fault;
use crate::postgres::{Event, Listener};

const DROPPED: &str = "headroom_postgres_notifications_dropped_total";

async fn notify(database: &Database, topic: &str, payload: &str) {
    let notify = "select pg_notify($1, $2)";
    let params: [&(dyn crate::postgres::ToSql + Sync); 2] = [&topic, &payload];
    database.query(notify, &params, LONG).await.unwrap();
}

async fn next(listener: &mut Listener) -> Event {
    let next = tokio::time::timeout(LONG, listener.next());
    next.await.unwrap().unwrap()
}

fn notification(topic: &str, payload: &str) -> Event {
    Event::Notification {
        topic: topic.to_owned(),
        payload: payload.to_owned(),
    }
}

#[test]
fn a_listener_receives_its_topics_on_a_connection_of_its_own() {
    with_database(2, |database| async move {
        let topics = ["news", "Odd \"name; unlisten *"];
        let mut listener = database.listen(&topics, LONG).await.unwrap();
        for (topic, payload) in [
            ("other", "0"),
            (topics[0], "1"),
            (topics[1], "2"),
            ("news", ""),
        ] {
            notify(&database, topic, payload).await;
        }
        for expected in [
            notification(topics[0], "1"),
            notification(topics[1], "2"),
            notification("news", ""),
        ] {
            assert_eq!(next(&mut listener).await, expected);
        }
        // It is one of the pool's connections.
        eventually(async || {
            let status = status(&database).await;
            ((status.size, status.in_use) == (2, 1)).then_some(())
        })
        .await;
        let full = database.exclusive(LONG).await.unwrap();
        assert!(database.exclusive(ms(100)).await.is_err());
        drop(full);
        // Its connection is fit for others when it is dropped.
        drop(listener);
        let rest = wait_until_unused(&database).await;
        assert_eq!(rest.opened, 2, "{rest:?}");
        let left = "select count(*) from pg_listening_channels()";
        let mut users = Vec::new();
        for _ in 0..2 {
            let user = database.exclusive(LONG).await.unwrap();
            let left = user.query(left, &[]).await.unwrap().one().unwrap();
            assert_eq!(left.get::<_, i64>(0), 0);
            users.push(user);
        }
    });
}

#[test]
fn a_full_queue_and_a_lost_connection_leave_a_gap() {
    let counters = &Counters::of(METRICS);
    let _recording = metrics::set_default_local_recorder(counters);
    with_database(3, |database| async move {
        let mut listener = database.listen(&["news"], LONG).await.unwrap();
        let many = "select count(pg_notify('news', n::text)) from generate_series(1, 3000) as n";
        database.query(many, &[], LONG).await.unwrap();
        // Those that have a place are there, and then the gap.
        let expected = 3000 - 1024;
        eventually(async || (counters.get(DROPPED) == expected).then_some(())).await;
        for n in 1..=1024 {
            assert_eq!(
                next(&mut listener).await,
                notification("news", &n.to_string())
            );
        }
        assert_eq!(next(&mut listener).await, Event::Gap);
        notify(&database, "news", "later").await;
        assert_eq!(next(&mut listener).await, notification("news", "later"));

        let kill = "select pg_terminate_backend(pid) from pg_stat_activity where query ~ '^LISTEN'";
        for _ in 0..2 {
            // Each loss leaves a gap, also if nothing comes in between.
            for _ in 0..2 {
                database.query(kill, &[], LONG).await.unwrap();
                assert_eq!(next(&mut listener).await, Event::Gap);
            }
            // What is notified after the gap is received.
            notify(&database, "news", "again").await;
            assert_eq!(next(&mut listener).await, notification("news", "again"));
        }
        drop(listener);
        wait_until_unused(&database).await;
    });
}

#[test]
fn a_listener_waits_for_a_server_that_is_away() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let (proxy, url) = cluster.behind_proxy().await;
        let through = database(&url, 2, &[]);
        let root = start(&system, &through).await;
        let direct = database(&cluster.url("postgres", ""), 2, &[]);
        let direct_root = start(&system, &direct).await;
        let mut listener = through.listen(&["news"], LONG).await.unwrap();
        proxy.set_faults(Fault::Close, Fault::Close);
        let early = tokio::time::timeout(ms(300), listener.next()).await;
        assert!(early.is_err(), "{early:?}");
        proxy.set_faults(Fault::None, Fault::None);
        assert_eq!(next(&mut listener).await, Event::Gap);
        notify(&direct, "news", "back").await;
        assert_eq!(next(&mut listener).await, notification("news", "back"));
        drop(listener);
        wait_until_unused(&through).await;
        root.stop().await;
        direct_root.stop().await;
    });
}

#[test]
fn a_listener_does_not_count_as_one_that_keeps_a_connection_for_too_long() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = ServerUrl::Configured(cluster.url("postgres", ""));
        let connector = Connector::new(url, settings());
        let pool = PoolConfig {
            leak_after: ms(50),
            ..pool(3)
        };
        let database = Database::new("postgres", connector, settings(), pool);
        let root = start(&system, &database).await;
        let listener = database.listen(&["news"], LONG).await.unwrap();
        // Held for less long than the listener.
        let (session, line) = (database.exclusive(LONG).await.unwrap(), line!());
        let place = format!("listen.rs:{line}");
        let held = eventually(async || {
            let status = status(&database).await;
            let mut leaked = status.leaked.iter();
            let is_found = leaked.any(|holder| holder.place.contains(&place));
            is_found.then_some(status)
        })
        .await;
        assert_eq!((held.leaks, held.leaked.len()), (1, 1), "{held:?}");
        drop((listener, session));
        wait_until_unused(&database).await;
        root.stop().await;
    });
}
