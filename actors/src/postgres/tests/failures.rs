use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio_postgres::config::TargetSessionAttrs;

use super::*;
use crate::kernel::pool::CheckoutError;
use crate::kernel::testing::proxy::Fault;
use crate::postgres::parsed_url::LastUrl;
use crate::postgres::socket::{self, Address};
use crate::postgres::{Connection, TransactionOptions};

const PID: &str = "select pg_backend_pid()";

#[test]
fn connections_that_the_server_ends_cost_their_calls_at_most() {
    with_database(8, |database| async move {
        database
            .query("create table t (n int8 primary key)", &[], LONG)
            .await
            .unwrap();
        let (acknowledged, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        let done = AtomicBool::new(false);
        let write = async |worker: i64| {
            let mut n = worker << 32;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                let insert = "insert into t values ($1)";
                match database.query(insert, &[&n], LONG).await {
                    Ok(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                    Err(Error::Lost { sent: true, .. }) => lost.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("{error:?}"),
                };
            }
        };
        let writers = join_all((0..50).map(write));
        let terminator = async {
            let mut ended = 0;
            while ended < 10 {
                // Any other connection, at random.
                let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                           where backend_type = 'client backend' and pid <> pg_backend_pid()
                           order by random() limit 1";
                // On a connection of its own: all others may be on one.
                let options = TransactionOptions::within(LONG);
                if let Ok(transaction) = database.begin(options).await {
                    let done = transaction.query(sql, &[]).await;
                    ended += done.map_or(0, |output| output.rows.len());
                }
                tokio::time::sleep(ms(3)).await;
            }
            done.store(true, Ordering::Relaxed);
            ended
        };
        let began = Instant::now();
        let (_, ended) = tokio::join!(writers, terminator);
        let (acknowledged, lost) = (acknowledged.into_inner(), lost.into_inner());
        let there = u64::try_from(count(&database, "select count(*) from t").await).unwrap();
        println!(
            "{ended} ended, {lost} lost, {there} there, {:?}",
            began.elapsed()
        );
        assert!(there >= acknowledged && there <= acknowledged + lost);
        let rest = wait_until_unused(&database).await;
        assert!(rest.size <= 8, "{rest:?}");
    });
}

#[test]
fn why_the_server_ended_an_idle_session_is_told() {
    with_database(3, |database| async move {
        let is_gone = async |pid: i32| {
            let sql = "select count(*) from pg_stat_activity where pid = $1";
            let found = database.query(sql, &[&pid], LONG).await.unwrap();
            (found.one().unwrap().get::<_, i64>(0) == 0).then_some(())
        };
        for commits in [true, false] {
            let options = TransactionOptions::within(LONG);
            let idle = database.begin(options).await.unwrap();
            let limit = "set idle_in_transaction_session_timeout = 50";
            idle.batch(limit).await.unwrap();
            let own = idle.query(PID, &[]).await.unwrap().one().unwrap().get(0);
            eventually(async || is_gone(own).await).await;
            let told = if commits {
                idle.commit().await.unwrap_err()
            } else {
                idle.query("select 1", &[]).await.unwrap_err()
            };
            assert!(matches!(told, Error::Lost { .. }), "{told:?}");
            assert!(told.to_string().contains("25P03"), "{told}");
        }
        let user = database.exclusive(LONG).await.unwrap();
        let own: i32 = user.query(PID, &[]).await.unwrap().one().unwrap().get(0);
        let end = "select pg_terminate_backend($1)";
        database.query(end, &[&own], LONG).await.unwrap();
        eventually(async || is_gone(own).await).await;
        let told = user.query("select 1", &[]).await.unwrap_err();
        assert!(told.to_string().contains("57P01"), "{told}");
    });
}

#[test]
fn all_who_wait_are_told_why_the_server_ended_the_session() {
    with_database(2, |database| async move {
        let begin = async || {
            let transaction = database
                .begin(TransactionOptions::within(LONG))
                .await
                .unwrap();
            let pid = transaction.query(PID, &[]).await.unwrap();
            (transaction, pid.one().unwrap().get::<_, i32>(0))
        };
        let end = async |pid: i32| {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity
                where pid = $1 and (wait_event = 'PgSleep' or query like 'copy t %')";
            eventually(async || {
                let ended = database.query(end, &[&pid], LONG).await.unwrap();
                (ended.rows_affected > 0).then_some(())
            })
            .await;
            eventually(async || {
                let sql = "select count(*) from pg_stat_activity where pid = $1";
                let found = database.query(sql, &[&pid], LONG).await.unwrap();
                (found.one().unwrap().get::<_, i64>(0) == 0).then_some(())
            })
            .await;
        };
        let assert_told = |told: Error| {
            assert!(matches!(told, Error::Lost { .. }), "{told:?}");
            let reason = "terminating connection due to administrator command (SQLSTATE 57P01)";
            assert!(told.to_string().contains(reason), "{told}");
        };
        // The server sends the first row no later than with the second one, which is large.
        let waits = "select repeat('x', 100000), pg_sleep(30 * n) from unnest(array[0, 0, 1]) as n";
        let (transaction, pid) = begin().await;
        let mut rows = transaction.rows(waits, &[]).await.unwrap();
        assert!(rows.next().await.unwrap().is_some());
        end(pid).await;
        let told = loop {
            match rows.next().await {
                Ok(row) => assert!(row.is_some()),
                Err(error) => break error,
            }
        };
        assert_told(told);
        drop(rows);
        drop(transaction);

        let (transaction, pid) = begin().await;
        let out = format!("copy ({waits}) to stdout");
        let mut copy = transaction.copy_out(&out).await.unwrap();
        assert!(copy.next().await.unwrap().is_some());
        end(pid).await;
        let told = loop {
            match copy.next().await {
                Ok(data) => assert!(data.is_some()),
                Err(error) => break error,
            }
        };
        assert_told(told);
        drop(copy);
        drop(transaction);

        for sends in [true, false] {
            let (transaction, pid) = begin().await;
            let table = "create temp table t (n int8)";
            transaction.batch(table).await.unwrap();
            let mut copy = transaction.copy_in("copy t from stdin").await.unwrap();
            end(pid).await;
            let told = if sends {
                loop {
                    let line = Bytes::from_static(b"1\n");
                    if let Err(error) = copy.send(line).await {
                        break error;
                    }
                }
            } else {
                copy.finish().await.unwrap_err()
            };
            assert_told(told);
        }

        // Those behind the one that the server works for.
        let user = database.exclusive(LONG).await.unwrap();
        let pid = user.query(PID, &[]).await.unwrap().one().unwrap().get(0);
        let (first, second) = (user.batch("select pg_sleep(60)"), user.batch("select 1"));
        let (first, second, ()) = tokio::join!(first, second, end(pid));
        assert_told(first.unwrap_err());
        assert_told(second.unwrap_err());
    });
}

#[test]
fn a_killed_server_is_found_again_when_it_is_back_and_nobody_hangs() {
    let mut cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 4, &[]);
        let root = start(&system, &database).await;
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        let insert = "insert into t values (1)";
        let calls = join_all((0..50).map(|_| database.query(insert, &[], ms(5000))));
        let kill = async {
            tokio::time::sleep(ms(2)).await;
            cluster.kill();
        };
        let (answers, ()) = tokio::join!(calls, kill);
        let mut acknowledged = answers.iter().filter(|answer| answer.is_ok()).count();
        // A session may outlive the server's first process for a moment, and answer.
        let asked = Instant::now();
        let gone = database.query("select pg_sleep(0)", &[], ms(300)).await;
        assert!(asked.elapsed() < ms(1500), "{gone:?} {:?}", asked.elapsed());
        cluster.run();
        let back = Instant::now();
        eventually(async || database.query(insert, &[], ms(1000)).await.ok()).await;
        acknowledged += 1;
        let after = back.elapsed();
        println!("recovered {after:?} after the return");
        assert!(after < ms(2000), "{after:?}");
        let there = usize::try_from(count(&database, "select count(*) from t").await).unwrap();
        assert!(there >= acknowledged, "{there} of {acknowledged}");
        root.stop().await;
    });
}

#[test]
fn a_wrong_password_is_reported_at_once_and_never_shown() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        create_role_with_password(&system, &cluster).await;
        for (password, succeeds) in [("hunter2", false), ("correct", true)] {
            let url = cluster.url("guarded", &format!("password={password}"));
            let database = database(&url, 2, &[]);
            let root = start(&system, &database).await;
            let asked = Instant::now();
            let answer = database.query("select 1", &[], LONG).await;
            assert!(asked.elapsed() < LONG / 2);
            assert_eq!(answer.is_ok(), succeeds, "{answer:?}");
            if let Err(error) = answer {
                let status = status(&database).await;
                let shown = format!("{error} {error:?} {status:?}");
                assert!(shown.contains("28P01") || shown.contains("password authentication"));
                assert!(!shown.contains("hunter2"), "{shown}");
                assert!(
                    matches!(error, Error::Checkout(CheckoutError::Connect(_))),
                    "{error:?}"
                );
            }
            root.stop().await;
        }
    });
}

#[test]
fn too_many_connections_are_waited_out() {
    let cluster = Cluster::start(&["max_connections=4", "superuser_reserved_connections=0"]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 20, &[]);
        let root = start(&system, &database).await;
        let hold = async |_| {
            let options = crate::postgres::TransactionOptions::within(LONG);
            let transaction = database.begin(options).await?;
            transaction.query("select pg_sleep(0.02)", &[]).await?;
            transaction.commit().await
        };
        for answer in join_all((0..30).map(hold)).await {
            // The circuit may have opened meanwhile, which is a prompt error.
            assert!(
                matches!(
                    answer,
                    Ok(()) | Err(Error::Checkout(CheckoutError::CircuitOpen { .. }))
                ),
                "{answer:?}"
            );
        }
        eventually(async || database.query("select 1", &[], ms(1000)).await.ok()).await;
        root.stop().await;
    });
}

async fn survives_black_hole(system: &TestSystem, cluster: &Cluster, exclusive: bool) {
    let (proxy, url) = cluster.behind_proxy().await;
    let database = database(&url, 4, &[]);
    let root = start(system, &database).await;
    let calls = || join_all((0..20).map(|_| database.query("select 1", &[], ms(300))));
    assert!(calls().await.iter().all(Result::is_ok));
    wait_until_unused(&database).await;
    let options = crate::postgres::TransactionOptions::within(ms(300));
    let transaction = database.begin(options).await.unwrap();
    let transaction = exclusive.then_some(transaction);
    if !exclusive {
        wait_until_unused(&database).await;
    }
    proxy.set_faults(Fault::Blackhole, Fault::None);
    let asked = Instant::now();
    if let Some(transaction) = transaction {
        let answer = transaction.query("select 1", &[]).await;
        assert!(matches!(answer, Err(Error::Deadline { .. })), "{answer:?}");
    }
    let answers = calls().await;
    // A connection in exclusive use is closed at once and delays no other call.
    assert!(exclusive || answers.iter().any(Result::is_err));
    assert!(asked.elapsed() < ms(1500), "{:?}", asked.elapsed());
    eventually(async || database.query("select 1", &[], ms(300)).await.ok()).await;
    println!("another connection answered after {:?}", asked.elapsed());
    assert!(asked.elapsed() < ms(6000), "{:?}", asked.elapsed());
    root.stop().await;
}

#[test]
fn connections_that_forward_nothing_are_replaced() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        survives_black_hole(&system, &cluster, false).await;
        survives_black_hole(&system, &cluster, true).await;
    });
}

#[test]
fn an_address_that_does_not_answer_leaves_time_for_the_next_one() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|_system| async move {
        // The kernel accepts for it, and nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = listener.local_addr().unwrap();
        let settings = settings();
        let url = ServerUrl::Configured(cluster.url("postgres", ""));
        let (parsed, attrs) = (LastUrl::default(), TargetSessionAttrs::ReadWrite);
        let parsed = parsed.get(&url, attrs, &settings).await.unwrap();
        let server = &parsed.servers[0];
        let works = socket::resolve(&server.config).await.unwrap();
        let open = async |addresses: Vec<Address>| {
            let deadline = Instant::now() + ms(1000);
            Connection::open_at(
                addresses,
                server,
                &parsed.tls,
                deadline,
                &settings,
                &Arc::default(),
            )
            .await
        };
        let both = [vec![Address::Tcp(silent)], works].concat();
        let connection = open(both.clone()).await.unwrap();
        connection.ping().await.unwrap();
        connection.retire().await;
        drop(cluster);
        let error = open(both).await.err().unwrap().to_string();
        assert!(error.contains(&format!("{silent}: no answer")), "{error}");
        assert!(error.contains("cannot connect"), "{error}");
    });
}
