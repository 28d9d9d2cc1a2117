//! The scenario `http`: GET requests to the server's own listener, as clients send them.
//!
//! An open loop by default, since users come at a rate of their own: when the server pauses, the requests
//! that were due meanwhile have the pause in their latency.

use std::sync::Arc;

use headroom_measure::{CONNECTION_BYTES, HttpTarget, Request};

use super::parameters::{Http, pace};
use super::run::{CALLER_BYTES, CannotRun, Measured, Run, workload};

pub(super) async fn run(parameters: &Http, run: &Run) -> Result<Measured, CannotRun> {
    let (callers, sockets) = (parameters.callers, run.deps.sockets_max);
    if callers as usize > sockets {
        return Err(CannotRun(format!(
            "{callers} callers need a connection each, and the limit of open files allows {sockets}; raise \
             the hard limit (LimitNOFILE, ulimit -Hn), or ask for fewer callers"
        )));
    }
    let each = CALLER_BYTES + CONNECTION_BYTES;
    let Some(_held) = run.reserve_for(1, parameters.callers, each).await else {
        return Ok(Measured::default());
    };
    let pace = pace(parameters.rate_per_second);
    let workload = workload(parameters.callers, parameters.operations, pace);
    let target = Arc::new(HttpTarget::new(run.deps.address));
    let request = Arc::new(Request::get(&*parameters.path));
    let ask = move |_| {
        let (target, request) = (Arc::clone(&target), Arc::clone(&request));
        async move { target.ask(&request).await }
    };
    run.measure("request", workload, &parameters.thresholds, ask)
        .await
}
