use tempfile::TempDir;

use super::*;
use crate::kernel::testing::certificate::certificate;

#[test]
fn the_first_host_that_takes_writes_is_used() {
    let other = Cluster::start(&["default_transaction_read_only=on"]);
    let writable = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let nobody = tempfile::tempdir().unwrap();
        let missing = format!(
            "{}:1",
            nobody.path().display().to_string().replace('/', "%2F")
        );
        let (read_only, primary) = (other.socket(), writable.socket());
        let hosts = url(&[&missing, &read_only, &primary], "postgres", "");
        let database = database(&hosts, 2, &[]);
        let root = start(&system, &database).await;
        database
            .query("create table t (n int8)", &[], LONG)
            .await
            .unwrap();
        let info = database.server_info(LONG).await.unwrap().unwrap();
        let folder = |path: &std::path::Path| path.display().to_string();
        assert!(
            info.server.starts_with(&folder(writable.path())),
            "{info:?}"
        );
        root.stop().await;
        let hosts = url(&[&missing, &read_only], "postgres", "");
        let database = super::database(&hosts, 2, &[]);
        let root = start(&system, &database).await;
        let error = database
            .query("select 1", &[], ms(500))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&folder(nobody.path())) && error.contains("does not allow writes"),
            "{error}"
        );
        root.stop().await;
    });
}

#[test]
fn a_server_that_becomes_read_only_is_left() {
    let mut first = Cluster::start(&[]);
    let second = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let hosts = url(&[&first.socket(), &second.socket()], "postgres", "");
        let database = database(&hosts, 2, &[]);
        let root = start(&system, &database).await;
        let table = "create table if not exists t (n int8)";
        database.query(table, &[], LONG).await.unwrap();
        database
            .query(
                "alter system set default_transaction_read_only = on",
                &[],
                LONG,
            )
            .await
            .unwrap();
        database
            .query("select pg_reload_conf()", &[], LONG)
            .await
            .unwrap();
        eventually(async || {
            database.query(table, &[], LONG).await.unwrap();
            let info = database.server_info(LONG).await.unwrap()?;
            info.server
                .starts_with(&second.path().display().to_string())
                .then_some(())
        })
        .await;
        first.stop();
        database
            .query("insert into t values (1)", &[], LONG)
            .await
            .unwrap();
        root.stop().await;
    });
}

#[test]
fn writes_go_on_with_the_promoted_replica_and_none_acknowledged_is_lost() {
    let mut primary = Cluster::start(&[]);
    let replica = primary.replica(&["hot_standby=on"]);
    TestSystem::real_time(|system| async move {
        let hosts = url(&[&primary.socket(), &replica.socket()], "postgres", "");
        let database = database(&hosts, 4, &[]);
        let root = start(&system, &database).await;
        database
            .query("create table t (n int8 primary key)", &[], LONG)
            .await
            .unwrap();
        // From here on, the primary acknowledges what the replica has.
        let names = "alter system set synchronous_standby_names = '*'";
        database.query(names, &[], LONG).await.unwrap();
        database
            .query("select pg_reload_conf()", &[], LONG)
            .await
            .unwrap();
        eventually(async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            (count(&database, sql).await == 1).then_some(())
        })
        .await;
        let info = database.server_info(LONG).await.unwrap().unwrap();
        assert_eq!((info.replicas, info.in_recovery), (1, false));
        let promoted = std::sync::atomic::AtomicBool::new(false);
        let insert = "insert into t values ($1)";
        let writes = async {
            let (mut acknowledged, mut after, mut n) = (Vec::new(), 0, 0_i64);
            while after < 50 {
                n += 1;
                // Whether the call starts after the promotion.
                let is_after = promoted.load(std::sync::atomic::Ordering::Acquire);
                if database.query(insert, &[&n], ms(500)).await.is_ok() {
                    acknowledged.push(n);
                    after += i32::from(is_after);
                } else {
                    tokio::time::sleep(ms(5)).await;
                }
            }
            acknowledged
        };
        let change = async {
            tokio::time::sleep(ms(200)).await;
            primary.stop();
            replica.promote();
            promoted.store(true, std::sync::atomic::Ordering::Release);
            Instant::now()
        };
        let (acknowledged, back) = tokio::join!(writes, change);
        println!(
            "{} acknowledged, 50 within {:?}",
            acknowledged.len(),
            back.elapsed()
        );
        assert!(back.elapsed() < ms(2000), "{:?}", back.elapsed());
        let sql = "select count(*) from t where n = any($1)";
        let there = database
            .query(sql, &[&acknowledged], LONG)
            .await
            .unwrap()
            .one()
            .unwrap();
        assert_eq!(
            there.get::<_, i64>(0),
            i64::try_from(acknowledged.len()).unwrap()
        );
        let info = database.server_info(LONG).await.unwrap().unwrap();
        assert!(
            info.server
                .starts_with(&replica.path().display().to_string())
                && !info.in_recovery
        );
        root.stop().await;
    });
}

/// A server with TLS, and the folder of the certificate, which is also its own root.
fn start_with_tls() -> (Cluster, TempDir) {
    let mut cluster = Cluster::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    cluster.stop();
    cluster.put("server.crt", &certificate);
    cluster.put("server.key", &key);
    cluster.put("postgresql.auto.conf", b"ssl = on\n");
    cluster.run();
    (cluster, folder)
}

#[test]
fn a_certificate_is_verified_as_sslmode_says() {
    let (cluster, folder) = start_with_tls();
    let root_file = folder.path().join("certificate.pem").display().to_string();
    TestSystem::real_time(|system| async move {
        let port = cluster.port();
        let own = format!("sslrootcert={root_file}");
        for (host, options, succeeds) in [
            ("localhost", format!("sslmode=verify-full&{own}"), true),
            ("127.0.0.1", format!("sslmode=verify-full&{own}"), false),
            ("127.0.0.1", format!("sslmode=verify-ca&{own}"), true),
            ("localhost", "sslmode=verify-full".to_owned(), false),
            ("127.0.0.1", "sslmode=require".to_owned(), true),
            ("127.0.0.1", String::new(), true),
            ("127.0.0.1", "sslmode=disable".to_owned(), false),
        ] {
            let options = format!("hostaddr=127.0.0.1&{options}");
            let url = url(&[&format!("{host}:{port}")], "postgres", &options);
            let database = database(&url, 1, &[]);
            let root = start(&system, &database).await;
            let sql = "select count(*) from pg_stat_ssl where pid = pg_backend_pid() and ssl";
            let answer = database
                .query(sql, &[], LONG)
                .await
                .and_then(QueryOutput::one);
            assert_eq!(answer.is_ok(), succeeds, "{host} {options}: {answer:?}");
            match answer {
                Ok(row) => assert_eq!(row.get::<_, i64>(0), 1, "{host} {options}"),
                Err(error) => println!("{host} {options}: {error}"),
            }
            root.stop().await;
        }
    });
}

#[test]
fn a_password_is_bound_to_the_channel() {
    let (cluster, _folder) = start_with_tls();
    TestSystem::real_time(|system| async move {
        create_role_with_password(&system, &cluster).await;
        let port = cluster.port();
        for (options, succeeds) in [
            ("sslmode=require&channel_binding=require", true),
            ("sslmode=require&channel_binding=disable", true),
            // Without TLS there is no channel to bind the password to.
            ("sslmode=disable&channel_binding=require", false),
        ] {
            let url = url(&[&format!("127.0.0.1:{port}")], "guarded:correct", options);
            let database = database(&url, 1, &[]);
            let root = start(&system, &database).await;
            let answer = database.query("select 1", &[], LONG).await;
            assert_eq!(answer.is_ok(), succeeds, "{options}: {answer:?}");
            root.stop().await;
        }
    });
}
