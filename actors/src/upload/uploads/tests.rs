//! What a panic in the work of one call does to the others.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::kernel::SupervisorSpec;
use crate::kernel::pool::PoolConfig;
use crate::kernel::pressure;
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::postgres::{Connector, PostgresConfig};
use crate::upload::Limits;

const LONG: Duration = Duration::from_secs(60);

/// A call whose work goes on when it is told to, and ends; or panics, if nobody tells.
struct Work(oneshot::Receiver<()>);

impl Message for Work {
    type Reply = Result<(), UploadError>;
}

impl Handler<Call<Work>> for Uploads {
    type Result = ();

    fn handle(&mut self, call: Call<Work>, context: &mut Context<Self>) {
        if let Some((Work(told), reply)) = call.accept() {
            Self::answer(context, reply, async move {
                assert!(told.await.is_ok(), "nobody tells");
                Ok(())
            });
        }
    }
}

fn plan() -> UploadsPlan {
    let config = Config {
        dir: "none".into(),
        bucket: None,
        kinds: BTreeMap::new(),
        limits: Limits::default(),
        active_max: 1,
        caller_active_max: 1,
        admission_wait: LONG,
        bytes_max: None,
        files_max: None,
        caller_bytes_max: None,
        caller_files_max: None,
        scan: None,
        disk_free_min: 0,
        ttl: None,
        request_key_ttl: LONG,
        partial_ttl: LONG,
        quarantine_bytes_max: 0,
        infected_ttl: LONG,
        sweep_interval: LONG,
    };
    let postgres = PostgresConfig::default();
    let url = ServerUrl::Configured("postgres://localhost/none".to_owned());
    let connector = Connector::new(url, postgres.clone());
    let database = Database::new("postgres", connector, postgres, PoolConfig::default());
    let (_, pressure) = pressure::channel();
    UploadsPlan::new(
        config,
        database,
        Arc::new(FixedBuffers::new(u64::MAX)),
        pressure,
    )
}

#[test]
fn a_panic_in_the_work_of_one_call_ends_no_other() {
    TestSystem::paused(|system| async move {
        let handle = Uploads::handle();
        let plan = plan();
        let children = plan.children(&handle).into_iter();
        let spec = children.fold(SupervisorSpec::new("root"), SupervisorSpec::child);
        let root = system.start(spec).await;
        let (tell, told) = oneshot::channel();
        let (tell_nobody, nobody) = oneshot::channel::<()>();
        drop(tell_nobody);
        let panics = async {
            let panicked = handle.ask(Work(nobody), LONG).await.unwrap();
            assert!(matches!(panicked, Err(UploadError::Panicked)));
            tell.send(()).unwrap();
        };
        let (done, ()) = tokio::join!(handle.ask(Work(told), LONG), panics);
        done.unwrap().unwrap();
        let tree = system.tree().snapshot().await;
        let uploads = tree.iter().find_map(|node| node.find("root/uploads"));
        assert_eq!(uploads.unwrap().restarts, 0);
        root.stop().await;
    });
}
