//! What the parts of the server said last, for requests that cannot wait for them. All worker threads
//! share it, and so do the sections of the metrics and the status of the server.

use std::sync::Arc;

use headroom_actors::jobs::JournalStatus;
use headroom_actors::lazy::LoaderStatus;
use headroom_actors::memory::RoundReport;
use tokio::sync::Semaphore;

use crate::last_known::LastKnown;
use crate::pools::{Pool, PoolReport};
use crate::server_facts::ServerFacts;

/// Collections on request that may be under way at once.
const COLLECTIONS_MAX: usize = 8;

/// The last answers of the parts that are asked.
#[derive(Debug)]
pub struct LastAnswers {
    /// The loader's status.
    pub loader: LastKnown<LoaderStatus>,
    /// What came of the last collection on request.
    pub collection: LastKnown<RoundReport>,
    /// A permit for each collection on request. They go on when their client has gone away, and must leave
    /// the memory supervisor room for the calls of loads.
    pub collections: Arc<Semaphore>,
    /// The journal of optimisations.
    pub journal: LastKnown<JournalStatus>,
    /// The pools, in their order.
    pub pools: Vec<PoolAnswers>,
}

/// The last answers about one pool.
#[derive(Debug, Default)]
pub struct PoolAnswers {
    /// Those of its actors.
    pub report: LastKnown<PoolReport>,
    /// Its server's.
    pub facts: ServerFacts,
}

impl LastAnswers {
    /// No answers yet, of `pools` among others.
    pub fn new(pools: &[Pool]) -> Self {
        Self {
            pools: pools.iter().map(|_| PoolAnswers::default()).collect(),
            loader: LastKnown::default(),
            collection: LastKnown::default(),
            collections: Arc::new(Semaphore::new(COLLECTIONS_MAX)),
            journal: LastKnown::default(),
        }
    }
}
