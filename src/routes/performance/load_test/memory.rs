//! The scenario `memory`: blocks of memory are reserved in the budget, written, checked and freed.
//!
//! A closed loop: a block needs the processor that the callers run on, so operations that are due at a
//! rate would measure only themselves. They share one thread, so the latency of a block has the work on
//! the blocks that are held beside it.
//!
//! All blocks have one size, so that the allocator gives the pages of a freed block to the next one. With
//! other sizes it would keep more free pages than any reservation covers.

use headroom_measure::{Failure, Pace};

use super::parameters::Memory;
use super::run::{CALLER_BYTES, CannotRun, Measured, Run, workload};

/// One byte in so many is checked.
const PAGE_BYTES: usize = 4096;

pub(super) async fn run(parameters: &Memory, run: &Run) -> Result<Measured, CannotRun> {
    let Some(_held) = run.reserve_for(1, parameters.callers, CALLER_BYTES).await else {
        return Ok(Measured::default());
    };
    let workload = workload(parameters.callers, parameters.operations, Pace::Closed);
    let (scenario, bytes) = (run.clone(), parameters.block_bytes);
    let hold = move |number| hold_block(scenario.clone(), number, bytes);
    run.measure("block", workload, &parameters.thresholds, hold)
        .await
}

/// Holds one block.
async fn hold_block(run: Run, number: u64, bytes: u64) -> Result<(), Failure> {
    let reserved = run.reserve(bytes).await;
    let mut reserved = reserved.map_err(|error| Failure::new("no_memory", error.to_string()))?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mark = number as u8 | 1;
    let mut block = Vec::new();
    let allocated = block.try_reserve_exact(length);
    allocated.map_err(|error| Failure::new("allocation", error.to_string()))?;
    // Writes every page, so that the memory is really used.
    block.resize(length, mark);
    reserved.fill(bytes);
    // The other callers hold their blocks at the same time.
    tokio::task::yield_now().await;
    let mut pages = std::hint::black_box(&block).iter().step_by(PAGE_BYTES);
    if pages.all(|byte| *byte == mark) {
        return Ok(());
    }
    Err(Failure::new(
        "wrong_value",
        "the block does not hold what was written",
    ))
}
