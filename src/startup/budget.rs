//! Checks that the memory budget holds the server and one small model.
//!
//! With a smaller budget, the server would count as ready but refuse every load. The check runs
//! before any address is bound, and in `check-config`.

use bytesize::ByteSize;
use headroom_actors::memory::{
    BudgetReading, BudgetSource, Memory, MemoryConfigError, NoBudget, most_below,
};
use headroom_actors::model::FIRST_LOAD_BYTES;
use thiserror::Error;

use super::actors::memory_config;
use crate::settings::Settings;

/// The memory that the server itself uses: about 6 MiB after the start, plus requests in flight and
/// memory that the allocator keeps.
const SERVER_BYTES: u64 = 32 << 20;

/// Why a budget cannot work.
#[derive(Debug, Error)]
pub enum BudgetError {
    /// The settings break a rule of the budget.
    #[error(transparent)]
    Settings(#[from] MemoryConfigError),
    /// The first load would not fit.
    #[error("{0}")]
    TooSmall(String),
}

fn size(bytes: u64) -> impl std::fmt::Display {
    ByteSize(bytes).display().iec()
}

/// The budget that results from `settings` on this machine.
pub(crate) fn read_budget(settings: &Settings) -> Result<BudgetReading, NoBudget> {
    Memory::read_budget(&memory_config(&settings.memory))
}

/// Checks the budget that results from `settings` on this machine.
///
/// # Errors
/// The budget is too small to load anything.
pub fn check_budget(settings: &Settings) -> Result<(), BudgetError> {
    memory_config(&settings.memory).validate()?;
    match read_budget(settings) {
        Ok(reading) => check(&reading, settings.memory.levels.critical),
        Err(error) => {
            // The memory supervisor reports the same error and does not start.
            tracing::debug!(%error, "the memory budget cannot be checked");
            Ok(())
        }
    }
}

/// Loads may use the budget up to the share `critical`.
fn check(reading: &BudgetReading, critical: f64) -> Result<(), BudgetError> {
    let space = most_below(reading.bytes, critical);
    if space >= SERVER_BYTES + FIRST_LOAD_BYTES {
        return Ok(());
    }
    let (origin, remedy) = match reading.source {
        BudgetSource::Configured => ("memory.limit".to_owned(), "set it to"),
        BudgetSource::CgroupV1 | BudgetSource::CgroupV2 => {
            let group = reading.candidate(reading.source);
            let file = group.map_or("the control group", |group| &group.detail);
            (file.to_owned(), "give the group")
        }
        BudgetSource::Physical => (
            "the machine's memory (memory.physical_share)".to_owned(),
            "set memory.limit to",
        ),
    };
    Err(BudgetError::TooSmall(format!(
        "{origin}: a memory budget of {} is too small: loads are let in below {}, and the server \
         with one small model needs {}; {remedy} {} or more",
        size(reading.bytes),
        size(space),
        size(SERVER_BYTES + FIRST_LOAD_BYTES),
        size(least(critical))
    )))
}

/// The smallest budget, in whole MiB, whose share `critical` holds the server and one load.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of MiB, rounded up"
)]
fn least(critical: f64) -> u64 {
    let needed = (SERVER_BYTES + FIRST_LOAD_BYTES) as f64 / critical;
    let mib = (needed / f64::from(1 << 20)).ceil() as u64;
    // A level is reached at exactly its threshold, so one MiB more is needed.
    (mib + 1) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: u64) -> BudgetReading {
        BudgetReading {
            bytes,
            source: BudgetSource::Configured,
            candidates: Vec::new(),
        }
    }

    #[test]
    fn the_least_budget_that_is_named_works_and_little_less_does_not() {
        for critical in [0.5, 0.85, 0.97, 1.0] {
            let least = least(critical);
            assert!(check(&budget(least), critical).is_ok());
            assert!(check(&budget(least - (3 << 20)), critical).is_err());
        }
        assert_eq!(least(0.85), 227 << 20, "the one in the documentation");
    }
}
