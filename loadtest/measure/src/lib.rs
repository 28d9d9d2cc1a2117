//! Measures operations under load, for the server's own load test and for `headroom-loadtest`: both get
//! their figures from the same code, so that the figures can be compared.
//!
//! - [`run`] lets callers do an operation in a closed or an open loop ([`Workload`], [`Pace`]).
//! - [`Meter`] counts what came of each operation, and [`Figures`] are what it has counted.
//! - [`Thresholds`] are what the figures should be, and each gets a [`Verdict`].
//! - [`Items`] is a table whose rows can be checked; [`HttpTarget`] is a server that requests go to.
//!
//! It starts no server and knows neither actors nor settings. What an operation is, its user decides.

mod callers;
mod http;
mod items;
mod meter;
mod random;
mod thresholds;
mod workload;

pub use callers::run;
pub use http::{CONNECTION_BYTES, HttpTarget, Request};
pub use items::Items;
pub use meter::{Failure, Figures, Latencies, METER_BYTES, Meter};
pub use random::Random;
pub use thresholds::{Check, Thresholds, Verdict};
pub use workload::{Pace, Workload};
