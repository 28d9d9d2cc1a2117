use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::kernel::pool::{Connect, ConnectErrorKind};
use crate::kernel::testing::certificate::{CertificateFiles, authority, certificate, client};

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
            ("localhost", "sslrootcert=system".to_owned(), false),
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

/// Makes the server read its files again, and ends all connections but the one that asks for that.
async fn reload(admin: &Database) {
    admin
        .query("select pg_reload_conf()", &[], LONG)
        .await
        .unwrap();
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where backend_type = 'client backend' and pid <> pg_backend_pid()";
    count(admin, end).await;
}

#[test]
fn root_certificates_that_were_replaced_are_used() {
    let (cluster, folder) = start_with_tls();
    let root_file = folder.path().join("certificate.pem").display().to_string();
    TestSystem::real_time(|system| async move {
        let options = format!("hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root_file}");
        let url = url(
            &[&format!("localhost:{}", cluster.port())],
            "postgres",
            &options,
        );
        let (database, admin) = (
            database(&url, 1, &[]),
            database(&cluster.url("postgres", ""), 1, &[]),
        );
        let (root, admins) = (
            start(&system, &database).await,
            start(&system, &admin).await,
        );
        database.query("select 1", &[], LONG).await.unwrap();
        // Another key: nothing that the first certificate proves is true of the second.
        let (certificate, key) = certificate(folder.path());
        cluster.put("server.crt", &certificate);
        cluster.put("server.key", &key);
        eventually(async || {
            reload(&admin).await;
            let sql = "select 1 from pg_stat_ssl where pid = pg_backend_pid() and ssl";
            let answer = database.query(sql, &[], ms(1000)).await;
            answer.ok()?.one().ok()
        })
        .await;
        // The server has one certificate at a time: one that nobody trusts any more is refused.
        let other = tempfile::tempdir().unwrap();
        let (certificate, key) = self::certificate(other.path());
        cluster.put("server.crt", &certificate);
        cluster.put("server.key", &key);
        let refused = eventually(async || {
            reload(&admin).await;
            database.query("select 1", &[], ms(1000)).await.err()
        })
        .await;
        println!("{refused}");
        root.stop().await;
        admins.stop().await;
    });
}

#[test]
fn root_certificates_of_the_system_are_read_again_after_a_failed_handshake() {
    let (cluster, _folder) = start_with_tls();
    TestSystem::real_time(|_| async move {
        let host = format!("localhost:{}", cluster.port());
        let options = "hostaddr=127.0.0.1&sslrootcert=system";
        let url = ServerUrl::Configured(url(&[&host], "postgres", options));
        let connector = Connector::new(url, settings());
        let used = async || connector.parsed_url().await.unwrap();
        let first = used().await;
        assert!(Arc::ptr_eq(&first, &used().await), "nothing has failed");
        let refused = connector.connect().await.err().unwrap();
        assert_eq!(refused.kind, ConnectErrorKind::Tls, "{refused}");
        let second = used().await;
        assert!(!Arc::ptr_eq(&first, &second), "{refused}");
        assert!(Arc::ptr_eq(&second, &used().await), "nothing has failed");
    });
}

/// A server that lets clients in by their certificates, and the folder of those.
fn start_with_client_certificates() -> (Cluster, TempDir, CertificateFiles) {
    let (mut cluster, folder) = start_with_tls();
    let authority = authority(folder.path());
    cluster.stop();
    cluster.put("authority.crt", &authority.read().0);
    let settings = b"ssl = on\nssl_ca_file = 'authority.crt'\n";
    cluster.put("postgresql.auto.conf", settings);
    let rules = b"local all all trust\nhostssl all all 127.0.0.1/32 cert\n";
    cluster.put("pg_hba.conf", rules);
    cluster.run();
    (cluster, folder, authority)
}

#[test]
fn a_client_shows_its_certificate_and_uses_one_that_was_replaced() {
    let (cluster, folder, authority) = start_with_client_certificates();
    TestSystem::real_time(|system| async move {
        let files = client(folder.path(), "postgres", &authority);
        let host = format!("127.0.0.1:{}", cluster.port());
        let identity = format!(
            "sslmode=require&sslcert={}&sslkey={}",
            files.certificate.display(),
            files.key.display()
        );
        let ask = async |options: &str| {
            let database = database(&url(&[&host], "postgres", options), 1, &[]);
            let root = start(&system, &database).await;
            let sql = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
            let answer = database.query(sql, &[], ms(3000)).await;
            root.stop().await;
            let answer = answer.and_then(QueryOutput::one);
            answer
                .map(|row| row.get::<_, String>(0))
                .map_err(|error| error.to_string())
        };
        assert_eq!(ask(&identity).await.as_deref(), Ok("/CN=postgres"));
        let refused = ask("sslmode=require").await.unwrap_err();
        assert!(refused.contains("28000"), "{refused}");

        // A key that others may read is not used.
        let set_mode = |mode: u32| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&files.key, permissions).unwrap();
        };
        set_mode(0o644);
        let refused = ask(&identity).await.unwrap_err();
        assert!(refused.contains("others may access it"), "{refused}");
        set_mode(0o600);

        // A certificate of somebody else takes the place, then the right one returns.
        let database = database(&url(&[&host], "postgres", &identity), 1, &[]);
        let root = start(&system, &database).await;
        database.query("select 1", &[], LONG).await.unwrap();
        let own = files.read();
        let put = |(certificate, key): &(Vec<u8>, Vec<u8>)| {
            write(&files.certificate, certificate);
            write(&files.key, key);
        };
        put(&client(folder.path(), "somebody", &authority).read());
        let admin = super::database(&cluster.url("postgres", ""), 1, &[]);
        let admins = start(&system, &admin).await;
        reload(&admin).await;
        let refused =
            eventually(async || database.query("select 1", &[], ms(1000)).await.err()).await;
        println!("{refused}");
        // The files never match while one of two is written: that is a failed connect and no more.
        write(&files.certificate, &own.0);
        let refused = database.query("select 1", &[], ms(1000)).await.unwrap_err();
        println!("{refused}");
        write(&files.key, &own.1);
        eventually(async || database.query("select 1", &[], ms(1000)).await.ok()).await;
        admins.stop().await;
        root.stop().await;
    });
}

#[test]
fn a_client_that_was_denied_uses_a_replaced_certificate_soon() {
    let (cluster, folder, authority) = start_with_client_certificates();
    TestSystem::real_time(|system| async move {
        let files = client(folder.path(), "somebody", &authority);
        let options = format!(
            "sslmode=require&sslcert={}&sslkey={}",
            files.certificate.display(),
            files.key.display()
        );
        let host = format!("127.0.0.1:{}", cluster.port());
        let database = database(&url(&[&host], "postgres", &options), 1, &[]);
        let root = start(&system, &database).await;
        let ask = async || database.query("select 1", &[], ms(1000)).await;
        eventually(async || {
            let refused = ask().await.unwrap_err().to_string();
            assert!(refused.contains("28000"), "{refused}");
            let left = status(&database).await.circuit.next_try_seconds?;
            (left > 5.0).then_some(())
        })
        .await;
        let replaced = Instant::now();
        let (certificate, key) = client(folder.path(), "postgres", &authority).read();
        write(&files.certificate, &certificate);
        write(&files.key, &key);
        eventually(async || ask().await.ok()).await;
        let took = replaced.elapsed();
        assert!(took < ms(4000), "{took:?}");
        root.stop().await;
    });
}

fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
}
