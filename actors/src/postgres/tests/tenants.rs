//! Transactions with a search path of their own.

use super::*;
use crate::postgres::{Transaction, TransactionOptions};

const READ: &str = "select * from t";

/// The names of two tenants. Quoting the second one wrongly ends it early.
const TENANTS: [&str; 2] = ["one", "Two\" ; select '"];

async fn begin(database: &Database, schemas: &[&str]) -> Transaction {
    let options = TransactionOptions::within(LONG);
    let options = options.search_path(schemas).unwrap();
    database.begin(options).await.unwrap()
}

/// Reads the only row of the tenant's table: text for the first tenant, a number for the second.
async fn read(transaction: &Transaction, tenant: usize) -> Result<bool, Error> {
    let row = transaction.query(READ, &[]).await?.one()?;
    Ok(match tenant {
        0 => row.try_get::<_, String>(0)? == "one",
        _ => row.try_get::<_, i64>(0)? == 2,
    })
}

async fn make_tenants(database: &Database) {
    let setup = database
        .begin(TransactionOptions::within(LONG))
        .await
        .unwrap();
    for (tenant, table) in TENANTS
        .into_iter()
        .zip(["as select 'one'::text", "as select 2::int8"])
    {
        let schema = tenant.replace('"', "\"\"");
        let make = format!("create schema \"{schema}\"; create table \"{schema}\".t {table}");
        setup.batch(&make).await.unwrap();
    }
    setup
        .batch("create table public.t as select 3.0::float8")
        .await
        .unwrap();
    setup.commit().await.unwrap();
}

#[test]
fn tenants_in_turn_over_one_connection_see_their_own_tables() {
    with_database(1, |database| async move {
        make_tenants(&database).await;
        let (mut wrong, mut failed) = (0, 0);
        for round in 0..40 {
            let tenant = round % 2;
            let transaction = begin(&database, &[TENANTS[tenant]]).await;
            if round % 5 == 0 {
                // The begin is then sent with another statement.
                transaction.batch("select 1").await.unwrap();
            }
            for _ in 0..2 {
                match read(&transaction, tenant).await {
                    Ok(is_right) => wrong += u32::from(!is_right),
                    Err(_) => failed += 1,
                }
            }
            let path = "select current_schemas(false)::text[]";
            let path = transaction.query(path, &[]).await.unwrap().one().unwrap();
            assert_eq!(path.get::<_, Vec<String>>(0), [TENANTS[tenant]]);
            match round % 3 {
                0 => transaction.commit().await.unwrap(),
                1 => transaction.rollback().await.unwrap(),
                _ => drop(transaction),
            }
            // It ends with the transaction.
            let row = database
                .query(READ, &[], LONG)
                .await
                .unwrap()
                .one()
                .unwrap();
            assert!((row.get::<_, f64>(0) - 3.0).abs() < 0.1);
        }
        assert_eq!((wrong, failed), (0, 0));
        assert_eq!(wait_until_unused(&database).await.opened, 1);
        // Each tenant's form is prepared once.
        let forms =
            format!("select count(*) from pg_prepared_statements where statement = '{READ}'");
        assert_eq!(count(&database, &forms).await, 3);
    });
}

#[test]
fn a_transaction_that_begins_again_has_its_search_path() {
    with_database(1, |database| async move {
        make_tenants(&database).await;
        let read_one = async || {
            let transaction = begin(&database, &["one", "public"]).await;
            let row = transaction.query(READ, &[]).await.unwrap().one().unwrap();
            transaction.commit().await.unwrap();
            row.get::<_, String>(0)
        };
        assert_eq!(read_one().await, "one");
        let replace = "drop table one.t; create table one.t as select 'new'::text as a, 1 as b";
        let change = database.begin(TransactionOptions::within(LONG));
        let change = change.await.unwrap();
        change.batch(replace).await.unwrap();
        change.commit().await.unwrap();
        // The cached form is out of date: the server refuses it, and the transaction begins again.
        assert_eq!(read_one().await, "new");
        // The next one uses the form that was prepared then.
        assert_eq!(read_one().await, "new");
        let forms =
            format!("select count(*) from pg_prepared_statements where statement = '{READ}'");
        assert_eq!(count(&database, &forms).await, 1);
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_temporary_table_hides_another_one_also_from_cached_statements() {
    with_database(1, |database| async move {
        let sql = "select n from t";
        let make = "create table t as select 1::int8 as n";
        database.query(make, &[], LONG).await.unwrap();
        // From its first temporary table on, a session looks for the tables of statements there.
        let other = database.exclusive(LONG).await.unwrap();
        other.batch("create temp table u ()").await.unwrap();
        drop(other);
        assert_eq!(count(&database, sql).await, 1);
        for make in [
            "create temp table t as select 2::int8 as n",
            "select 2::int8 as n into temp t",
        ] {
            for drops in [true, false] {
                let options = TransactionOptions::within(LONG);
                let user = database.begin(options).await.unwrap();
                user.query(make, &[]).await.unwrap();
                let seen = user.query(sql, &[]).await.unwrap().one().unwrap();
                assert_eq!(seen.get::<_, i64>(0), 2, "{make}");
                if drops {
                    user.query("drop table t", &[]).await.unwrap();
                    let seen = user.query(sql, &[]).await.unwrap().one().unwrap();
                    assert_eq!(seen.get::<_, i64>(0), 1, "{make}");
                }
                user.commit().await.unwrap();
                assert_eq!(count(&database, sql).await, 1, "{make}");
            }
        }
        assert_eq!(wait_until_unused(&database).await.opened, 1);
    });
}

#[test]
fn a_search_path_that_the_transaction_changes_keeps_statements_apart() {
    with_database(1, |database| async move {
        make_tenants(&database).await;
        let other = TENANTS[1].replace('"', "\"\"");
        let change = format!("set local search_path to \"{other}\"");
        let transaction = begin(&database, &TENANTS[..1]).await;
        assert!(read(&transaction, 0).await.unwrap());
        // A dropped savepoint takes the change back.
        let savepoint = transaction.savepoint().await.unwrap();
        transaction.batch(&change).await.unwrap();
        assert!(read(&transaction, 1).await.unwrap());
        drop(savepoint);
        assert!(read(&transaction, 0).await.unwrap());
        // A function changes it, in a statement whose rows are read one by one.
        let change = "select set_config('search_path', quote_ident($1), true)";
        let rows = transaction.rows(change, &[&TENANTS[1]]).await.unwrap();
        rows.finish().await.unwrap();
        assert!(read(&transaction, 1).await.unwrap());
        transaction.commit().await.unwrap();
    });
}
