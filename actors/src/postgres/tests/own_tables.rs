//! The example with tables of one's own.

use super::cluster::Cluster;
use super::{LONG, count, database, start};
use crate::kernel::testing::TestSystem;

// Its `main` is not used here.
#[allow(dead_code)]
#[path = "../../../examples/own_tables.rs"]
mod example;

#[test]
fn the_example_with_own_tables_works() {
    let cluster = Cluster::start(&[]);
    TestSystem::real_time(|system| async move {
        let url = cluster.url("postgres", "");
        assert_eq!(example::run(&url).await.unwrap(), 70);
        let database = database(&url, 1, &[]);
        let root = start(&system, &database).await;
        let sum = "select sum(balance)::int8 from accounts.account";
        assert_eq!(count(&database, sum).await, 200);
        let versions = "select count(*) from accounts.schema_history";
        assert_eq!(count(&database, versions).await, 1);
        database
            .query("drop schema accounts cascade", &[], LONG)
            .await
            .unwrap();
        root.stop().await;
    });
}
