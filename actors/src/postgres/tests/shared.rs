//! Shared connections whose callers leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::kernel::pool::{Lease, Mode};
use crate::kernel::testing::proxy::Fault;
use crate::postgres::call::Caller;
use crate::postgres::connection::Connection;
use crate::postgres::connector::check_out;
use crate::postgres::pipelined;

/// A statement that takes longer than its caller waits.
const SLOW: &str = "select pg_sleep(25)";

#[test]
fn nobody_waits_behind_a_slow_statement() {
    with_database(30, async |database| {
        let slow = spawn(&database, "select pg_sleep(6)", LONG);
        in_flight(&database, 1).await;
        let others = [(); 10].map(|()| spawn(&database, "select 1", ms(3000)));
        for other in others {
            let answer = other.await.unwrap();
            assert!(answer.is_ok(), "{answer:?}");
        }
        assert!(status(&database).await.size >= 2);
        // Neither behind one on a connection that was quick before, as soon as it is seen to be slow.
        let on_a_quick_one = spawn(&database, "select pg_sleep(6)", LONG);
        in_flight(&database, 2).await;
        let began = Instant::now();
        eventually(async || (began.elapsed() > ms(150)).then_some(())).await;
        let others = [(); 10].map(|()| spawn(&database, "select 1", ms(3000)));
        for other in others {
            let answer = other.await.unwrap();
            assert!(answer.is_ok(), "{answer:?}");
        }
        slow.abort();
        on_a_quick_one.abort();
    });
}

#[test]
fn slow_statements_without_callers_block_nobody_while_connections_are_free() {
    with_database(30, async |database| {
        // More of them than connections may have several users.
        let slow = [(); 6].map(|()| spawn(&database, SLOW, ms(1500)));
        in_flight(&database, 6).await;
        for left in slow {
            assert!(left.await.unwrap().is_err());
        }
        assert_answers_at_once(&database).await;
        // After a while their connections are closed.
        in_flight(&database, 0).await;
        assert_answers_at_once(&database).await;
    });
}

#[test]
fn a_runtime_that_stops_leaves_no_connection_blocked() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 1, &[]);
        let root = start(&system, &database).await;
        database.query("select 1", &[], LONG).await.unwrap();
        let caller = database.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            // The runtime stops when the caller has left and the server still works.
            let answer = runtime.block_on(caller.query(SLOW, &[], ms(100)));
            answer.unwrap_err();
        });
        stopped.await.unwrap();
        in_flight(&database, 0).await;
        let answer = database.query("select 1", &[], ms(4000)).await;
        assert!(answer.is_ok(), "{answer:?}");
        root.stop().await;
    });
}

/// The number of connections that the server has for the role `limited`.
const OF_THE_ROLE: &str = "select count(*) from pg_stat_activity where usename = 'limited'";

#[test]
fn the_maximum_holds_at_the_server_and_a_stop_leaves_nothing_there() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let admin = database(&cluster.url("postgres", ""), 1, &[]);
        let create = "create role limited login connection limit 4";
        let watching = start(&system, &admin).await;
        admin.query(create, &[], LONG).await.unwrap();
        let database = database(&cluster.url("limited", ""), 4, &[]);
        let root = start(&system, &database).await;
        let sleep = async |within| {
            let sleeping = database.query("select pg_sleep(30)", &[], within).await;
            let error = sleeping.unwrap_err().to_string();
            assert!(!error.contains("53300"), "{error}");
        };
        let done = AtomicBool::new(false);
        let callers = async {
            for _ in 0..4 {
                join_all((0..40).map(|n| sleep(ms(50 + 5 * n)))).await;
            }
            done.store(true, Ordering::Release);
        };
        let most = async {
            let mut most = 0;
            while !done.load(Ordering::Acquire) {
                most = most.max(count(&admin, OF_THE_ROLE).await);
            }
            most
        };
        let ((), most) = tokio::join!(callers, most);
        assert!((1..=4).contains(&most), "{most}");
        // Some statements run on when the pool stops.
        join_all((0..40).map(|_| sleep(ms(50)))).await;
        root.stop().await;
        assert_eq!(count(&admin, OF_THE_ROLE).await, 0);
        watching.stop().await;
    });
}

#[test]
fn statements_without_callers_are_cancelled_and_cost_no_connection() {
    with_database(2, |database| async move {
        let backend = "select pg_backend_pid()::int8";
        let before = count(&database, backend).await;
        let late = database.query("select pg_sleep(30)", &[], ms(50)).await;
        assert!(matches!(late, Err(Error::Deadline { sent: true })));
        wait_until_unused(&database).await;
        let options = crate::postgres::TransactionOptions::within(LONG);
        let given_up = database.begin(options).await.unwrap();
        let sleep = given_up.query("select pg_sleep(30)", &[]);
        assert!(tokio::time::timeout(ms(50), sleep).await.is_err());
        drop(given_up);
        let unused = wait_until_unused(&database).await;
        assert_eq!(unused.opened, 1, "{unused:?}");
        assert_eq!(count(&database, backend).await, before);
    });
}

/// Two leases on the only connection, as callers may have them while it is quick.
async fn two_leases(database: &Database) -> (Lease<Connection>, Lease<Connection>) {
    count(database, "select 1::int8").await;
    let share = || check_out(database.pool(), Mode::Shared, Caller::new(LONG));
    eventually(async || {
        let first = share().await.unwrap();
        let second = tokio::time::timeout(ms(20), share()).await.ok()?;
        Some((first, second.unwrap()))
    })
    .await
}

#[test]
fn nothing_is_cancelled_while_somebody_waits_on_the_connection() {
    with_database(1, |database| async move {
        let (late, patient) = two_leases(&database).await;
        let now = Instant::now();
        let late = pipelined::run(late, "select pg_sleep(1)", &[], now + ms(100));
        // Its own statement would be cancelled if that of the other took less time than expected.
        let patient = pipelined::run(patient, "select pg_sleep(0.5)", &[], now + LONG);
        let (late, patient) = tokio::join!(late, patient);
        late.unwrap_err();
        patient.unwrap();
    });
}

#[test]
fn a_late_request_to_cancel_ends_no_statement_of_another_caller() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let admin = database(&cluster.url("postgres", ""), 1, &[]);
        let (proxy, url) = cluster.behind_proxy().await;
        let database = database(&url, 1, &[]);
        let roots = (
            start(&system, &admin).await,
            start(&system, &database).await,
        );
        let (late, next) = two_leases(&database).await;
        // Requests to cancel have connections of their own.
        proxy.set_faults(Fault::None, Fault::Blackhole);
        let (connection, sent) = (Arc::clone(&late), AtomicBool::new(true));
        let work = connection.run("select pg_sleep(2)", &[], &sent);
        let late = pipelined::with_lease(late, Instant::now() + ms(50), &sent, work).await;
        late.unwrap_err();
        eventually(async || (proxy.accepted() > 1).then_some(())).await;
        let is_over = AtomicBool::new(false);
        let next = async {
            let until = Instant::now() + LONG;
            let done = pipelined::run(next, "select pg_sleep(3)", &[], until).await;
            is_over.store(true, Ordering::Release);
            done
        };
        // The request arrives as soon as the other caller's statement runs.
        let arrival = async {
            let running =
                "select count(*) from pg_stat_activity where state = 'active' and query ~ 'sleep.3'
                           and pid <> pg_backend_pid()";
            eventually(async || {
                let runs = count(&admin, running).await == 1;
                (runs || is_over.load(Ordering::Acquire)).then_some(())
            })
            .await;
            proxy.set_faults(Fault::None, Fault::None);
        };
        let (next, ()) = tokio::join!(next, arrival);
        assert!(
            matches!(next, Err(Error::Lost { sent: false, .. })),
            "{next:?}"
        );
        let done = database.query("select 1", &[], LONG).await;
        assert!(done.is_ok(), "{done:?}");
        roots.0.stop().await;
        roots.1.stop().await;
    });
}

#[test]
fn a_busy_connection_is_not_taken_for_fit_after_a_report_that_came_too_late() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let (proxy, url) = cluster.behind_proxy().await;
        let database = database(&url, 1, &[]);
        let root = start(&system, &database).await;
        database.server_info(LONG).await.unwrap();
        database.query("select 1", &[], LONG).await.unwrap();
        database.server_info(LONG).await.unwrap().unwrap();
        proxy.set_faults(Fault::Blackhole, Fault::None);
        let late = database.server_info(ms(50)).await;
        assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        let status = status(&database).await;
        assert_eq!((status.idle, status.shared_in_flight), (0, 1), "{status:?}");
        eventually(async || database.query("select 1", &[], ms(300)).await.ok()).await;
        root.stop().await;
    });
}

#[test]
fn the_server_stops_by_itself_soon_after_the_callers_deadline() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let admin = database(&cluster.url("postgres", ""), 1, &[]);
        let watching = start(&system, &admin).await;
        let (proxy, url) = cluster.behind_proxy().await;
        let database = database(&url, 2, &[]);
        let root = start(&system, &database).await;
        let show = "select setting::int8 from pg_settings where name = 'statement_timeout'";
        for (within, timeout) in [(900, 1024), (800, 1024), (5000, 8192), (3000, 8192)] {
            let shown = database.query(show, &[], ms(within)).await.unwrap();
            assert_eq!(shown.one().unwrap().get::<_, i64>(0), timeout);
        }
        let options = crate::postgres::TransactionOptions::within(ms(3000));
        let began = Instant::now();
        let transaction = database.begin(options).await.unwrap();
        let shown = transaction.query(show, &[]).await.unwrap();
        let shown = shown.one().unwrap().get::<_, i64>(0);
        // The server gives up after the caller, if only by a bit.
        let left = 3000 - i64::try_from(began.elapsed().as_millis()).unwrap();
        assert!(
            shown > 0 && shown <= 3050 && shown >= left + 49,
            "{shown} {left}"
        );
        transaction.commit().await.unwrap();
        // The end of the transaction has reset the session.
        let shown = database.query(show, &[], ms(3000)).await.unwrap();
        assert_eq!(shown.one().unwrap().get::<_, i64>(0), 4096);
        assert_eq!(count(&database, show).await, 30_000);

        // No request to cancel arrives.
        let running = "select count(*) from pg_stat_activity
                       where state = 'active' and query ~ 'sleep.77' and pid <> pg_backend_pid()";
        let late = spawn(&database, "select pg_sleep(77)", ms(1000));
        eventually(async || (count(&admin, running).await == 1).then_some(())).await;
        proxy.set_faults(Fault::Blackhole, Fault::Blackhole);
        late.await.unwrap().unwrap_err();
        let left = Instant::now();
        eventually(async || (count(&admin, running).await == 0).then_some(())).await;
        assert!(left.elapsed() < LONG / 2, "{:?}", left.elapsed());
        proxy.set_faults(Fault::None, Fault::None);
        root.stop().await;
        watching.stop().await;
    });
}

/// Runs `misuse` and two statements behind it over one shared connection. Nothing that the server does
/// within the caller's transaction or `COPY` may be acknowledged. Returns the number of rows that were
/// written.
async fn misuse(database: &Database, misuse: &str) -> i64 {
    let before = count(database, "select count(*) from t").await;
    let caller = Caller::new(LONG);
    let lease = check_out(database.pool(), Mode::Shared, caller)
        .await
        .unwrap();
    let connection = Arc::clone(&lease);
    let sent = AtomicBool::new(true);
    let misused = pipelined::with_lease(lease, caller.deadline, &sent, connection.batch(misuse));
    let insert = || connection.batch("insert into t values (1)");
    let (misused, second, third) = tokio::join!(misused, insert(), insert());
    let error = misused.unwrap_err();
    if let Error::Lost { reason, .. } = &error {
        assert!(reason.contains("shared with others"), "{reason}");
    }
    for answer in [second, third] {
        let lost = matches!(answer, Err(Error::Lost { sent: true, .. }));
        assert!(lost, "{misuse}: {answer:?} behind {error:?}");
    }
    drop(connection);
    wait_until_unused(database).await;
    count(database, "select count(*) from t").await - before
}

#[test]
fn nothing_is_acknowledged_in_a_transaction_that_another_caller_began() {
    with_database(1, |database| async move {
        let create = "create table t (n int8)";
        database.query(create, &[], LONG).await.unwrap();
        assert_eq!(misuse(&database, "begin").await, 0, "the server undid them");
        assert_eq!(misuse(&database, "begin; select 1/0").await, 0);
        // The server tells the error, then removes the tables, and only then tells the session's state.
        let tables = "do $$begin for n in 1..500 loop execute format('create table t%s ()', n); end loop; end$$";
        let slow = format!("begin; {tables}; select 1/0");
        assert_eq!(misuse(&database, &slow).await, 0);
        assert_eq!(misuse(&database, "copy t from stdin").await, 0);
        // The server may write what follows this one.
        misuse(&database, "copy t to stdout").await;
        let begun = "select count(*) from pg_stat_activity where state like 'idle in transaction%'";
        assert_eq!(count(&database, begun).await, 0);
    });
}

fn spawn(
    database: &Database,
    sql: &'static str,
    within: Duration,
) -> tokio::task::JoinHandle<Result<QueryOutput, Error>> {
    let database = database.clone();
    tokio::spawn(async move { database.query(sql, &[], within).await })
}

async fn assert_answers_at_once(database: &Database) {
    for _ in 0..20 {
        let answer = database.query("select 1", &[], ms(1000)).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// Waits until `count` leases on shared connections are out.
async fn in_flight(database: &Database, count: u32) {
    eventually(async || {
        let status = status(database).await;
        (status.shared_in_flight == count).then_some(())
    })
    .await;
}
