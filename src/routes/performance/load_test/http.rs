//! The scenario `http`: GET requests to the server's own listener, as clients send them.
//!
//! An open loop by default, since users come at a rate of their own: when the server pauses, the requests
//! that were due meanwhile have the pause in their latency.

use std::sync::Arc;

use headroom_measure::{CONNECTION_BYTES, HttpTarget, Request, Workload};

use super::parameters::{Http, pace};
use super::run::{CALLER_BYTES, CannotRun, Measured, OPERATION_WITHIN, Run, operation};
use super::thread::on_own_thread;

pub(super) async fn run(parameters: &Http, run: &Run) -> Result<Measured, CannotRun> {
    let each = CALLER_BYTES + CONNECTION_BYTES;
    let Some(_held) = run.reserve_for(1, parameters.callers, each).await else {
        return Ok(Measured::default());
    };
    let pace = pace(parameters.rate_per_second);
    let workload = Workload {
        callers: parameters.callers,
        operations: parameters.operations,
        // The deadline of the scenario stops it.
        time: std::time::Duration::MAX,
        each: OPERATION_WITHIN,
        pace,
    };
    let (meter, stop) = (run.meter(), run.stop.clone());
    let counted = Arc::clone(&meter);
    let target = Arc::new(HttpTarget::new(run.deps.address));
    let request = Arc::new(Request::get(&*parameters.path));
    let load = move || async move {
        let ask = move |_| {
            let (target, request) = (Arc::clone(&target), Arc::clone(&request));
            async move { target.ask(&request).await }
        };
        headroom_measure::run(workload, &counted, &stop, ask).await;
    };
    on_own_thread(load).await.map_err(CannotRun)?;
    Ok(Measured {
        operations: vec![operation(
            "request",
            pace,
            meter.figures(),
            &parameters.thresholds,
        )],
        ..Measured::default()
    })
}
