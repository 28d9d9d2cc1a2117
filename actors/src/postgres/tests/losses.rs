//! What callers were told, compared with what is there, when the network, the server or the primary fails
//! while they write.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use futures_util::future::join_all;

use super::*;
use crate::kernel::testing::proxy::Fault;
use crate::postgres::TransactionOptions;

const WRITERS: usize = 12;

/// Longer than the pool needs for another connection, and shorter than the network is silent.
const WITHIN: Duration = Duration::from_millis(400);

/// What the answer to a write says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    Nothing,
    Unknown,
}

impl Told {
    /// As the table in `docs/pools.md` says it.
    fn by(answer: &Result<(), Error>) -> Self {
        match answer {
            Ok(()) => Self::Done,
            Err(
                Error::Checkout(_)
                | Error::Server(_)
                | Error::Aborted
                | Error::Deadline { sent: false }
                | Error::Lost { sent: false, .. },
            ) => Self::Nothing,
            Err(Error::Deadline { .. } | Error::Lost { .. } | Error::Protocol(_)) => Self::Unknown,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn is_done(told: Told) -> bool {
    told == Told::Done
}

/// Writers of numbers, each number once.
struct Writers<'a> {
    database: &'a Database,
    next: Cell<i64>,
    /// How many rows each number has, and what its writer was told.
    told: RefCell<Vec<(i64, i64, Told)>>,
    is_over: Cell<bool>,
}

impl<'a> Writers<'a> {
    async fn new(database: &'a Database) -> Self {
        let create = "create table t (n int8, part int8, primary key (n, part))";
        database.query(create, &[], LONG).await.unwrap();
        Self {
            database,
            next: Cell::new(0),
            told: RefCell::default(),
            is_over: Cell::new(false),
        }
    }

    /// Writes until `failures` is over.
    async fn run_beside(&self, failures: impl Future<Output = ()>) {
        let failures = async {
            failures.await;
            self.is_over.set(true);
        };
        tokio::join!(join_all((0..WRITERS).map(|_| self.write())), failures);
    }

    async fn write(&self) {
        while !self.is_over.get() {
            let n = self.next.get();
            self.next.set(n + 1);
            let (rows, told) = if n % 2 == 0 {
                (1, self.write_one(n).await)
            } else {
                (2, self.write_two(n).await)
            };
            self.told.borrow_mut().push((n, rows, told));
            if told != Told::Done {
                // The circuit refuses at once.
                tokio::time::sleep(ms(5)).await;
            }
        }
    }

    async fn write_one(&self, n: i64) -> Told {
        let insert = "insert into t values ($1, 0)";
        let done = self.database.query(insert, &[&n], WITHIN).await;
        Told::by(&done.map(drop))
    }

    /// Before the commit, nothing is done.
    async fn write_two(&self, n: i64) -> Told {
        let options = TransactionOptions::within(WITHIN);
        let Ok(transaction) = self.database.begin(options).await else {
            return Told::Nothing;
        };
        for part in [0_i64, 1] {
            let insert = "insert into t values ($1, $2)";
            if transaction.query(insert, &[&n, &part]).await.is_err() {
                return Told::Nothing;
            }
        }
        Told::by(&transaction.commit().await)
    }

    fn count(&self, wanted: Told) -> usize {
        let told = self.told.borrow();
        told.iter().filter(|(_, _, told)| *told == wanted).count()
    }

    /// Waits for `more` writes whose outcome `counts`.
    async fn go_on(&self, more: usize, counts: impl Fn(Told) -> bool) {
        let count = || {
            let told = self.told.borrow();
            told.iter().filter(|(_, _, told)| counts(*told)).count()
        };
        let enough = count() + more;
        eventually(async || (count() >= enough).then_some(())).await;
    }

    /// Only what is under way when a server is killed, which happened `times`, may be unknown.
    fn assert_unknown_at_most(&self, times: usize) {
        let unknown = self.count(Told::Unknown);
        assert!(unknown <= times * WRITERS, "{unknown} are unknown");
    }

    /// Compares what was told with what `database` has.
    async fn compare(&self, database: &Database) {
        let sql = "select n, count(*) from t group by n";
        let found = database.query(sql, &[], LONG).await.unwrap();
        let found = found.rows.iter().map(|row| (row.get(0), row.get(1)));
        let found: HashMap<i64, i64> = found.collect();
        for (n, rows, told) in &*self.told.borrow() {
            let there = found.get(n).copied().unwrap_or_default();
            match told {
                Told::Done => assert_eq!(there, *rows, "{n} was acknowledged"),
                Told::Nothing => assert_eq!(there, 0, "{n} was told to be not done"),
                Told::Unknown => assert!(there == 0 || there == *rows, "{n}: a part, {there}"),
            }
        }
        let [done, nothing, unknown] =
            [Told::Done, Told::Nothing, Told::Unknown].map(|told| self.count(told));
        println!("{done} done, {nothing} not done, {unknown} unknown");
    }
}

#[test]
fn what_writers_were_told_holds_whatever_the_network_does() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let (proxy, url) = cluster.behind_proxy().await;
        let database = database(&url, 6, &[]);
        let root = start(&system, &database).await;
        let writers = Writers::new(&database).await;
        let failures = async {
            let mut faults = vec![
                Fault::Close,
                Fault::Blackhole,
                Fault::Delay(WITHIN / 8),
                Fault::Delay(WITHIN * 2),
            ];
            // An answer to an insert has about 40 bytes, in several messages.
            faults.extend([0, 1, 3, 6, 9, 14, 22, 31, 57, 300].map(Fault::Truncate));
            for fault in faults {
                writers.go_on(20, is_done).await;
                proxy.set_faults(fault, Fault::None);
                writers.go_on(60, |_| true).await;
                proxy.set_faults(Fault::None, Fault::None);
            }
            writers.go_on(20, is_done).await;
        };
        writers.run_beside(failures).await;
        assert!(writers.count(Told::Unknown) > 0 && writers.count(Told::Nothing) > 0);
        writers.compare(&database).await;
        root.stop().await;
    });
}

#[test]
fn what_writers_were_told_holds_when_the_server_is_killed() {
    let mut cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let database = database(&cluster.url("postgres", ""), 6, &[]);
        let root = start(&system, &database).await;
        let writers = Writers::new(&database).await;
        let failures = async {
            for _ in 0..3 {
                writers.go_on(50, is_done).await;
                cluster.kill();
                writers.go_on(60, |told| !is_done(told)).await;
                cluster.run();
            }
            writers.go_on(50, is_done).await;
        };
        writers.run_beside(failures).await;
        assert!(writers.count(Told::Nothing) > 0);
        writers.assert_unknown_at_most(3);
        writers.compare(&database).await;
        root.stop().await;
    });
}

#[test]
fn what_writers_were_told_holds_when_the_primary_is_killed_and_a_replica_promoted() {
    let mut primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let hosts = url(&[&primary.socket(), &replica.socket()], "postgres", "");
        let database = database(&hosts, 6, &[]);
        let connector = Connector::replicas(
            ServerUrl::Configured(replica.url("postgres", "")),
            settings(),
        );
        let standby = Database::new("standby", connector, settings(), pool(1));
        let spec = SupervisorSpec::new("root")
            .child(database.child(None))
            .child(standby.child(None));
        let root = system.start(spec).await;
        let writers = Writers::new(&database).await;
        // From here on, the primary acknowledges what the replica has.
        for sql in [
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        ] {
            database.query(sql, &[], LONG).await.unwrap();
        }
        eventually(async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            (count(&database, sql).await == 1).then_some(())
        })
        .await;
        let failures = async {
            writers.go_on(100, is_done).await;
            primary.kill();
            writers.go_on(20, |told| !is_done(told)).await;
            let promote = "select pg_promote(false)";
            standby.query(promote, &[], LONG).await.unwrap();
            writers.go_on(100, is_done).await;
        };
        writers.run_beside(failures).await;
        writers.assert_unknown_at_most(1);
        writers.compare(&database).await;
        let info = database.server_info(LONG).await.unwrap().unwrap();
        let folder = replica.path().display().to_string();
        assert!(info.server.starts_with(&folder) && !info.in_recovery);
        root.stop().await;
    });
}
