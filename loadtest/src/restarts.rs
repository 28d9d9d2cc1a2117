//! Restarts under load: servers replace each other behind a balancer, as `headroom_test_support::restarts` says, with the
//! default of `server.drain_delay`.

use std::path::Path;

use headroom_test_support::restarts::replace_under_load;
use headroom_test_support::server::Options;

use crate::Result;
use crate::report::{self, figure, figure_at_most};
use crate::scenario::built;

/// Replaces the server with the binary at `path` as often.
///
/// # Errors
/// A request failed.
pub(crate) fn measure(path: &Path, restarts: u32) -> Result<()> {
    let options = Options::new(built(path)?)
        .settings("server.drain_delay = '5s'")
        .settings("log.filter = 'warn'");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(replace_under_load(&options, restarts));
    report::title("restarts under load");
    figure("restarts", restarts.into(), "");
    figure("requests answered", figures.succeeded as f64, "");
    figure_at_most(0.0, "requests failed", figures.failed as f64, "");
    if let Some(latency) = &figures.latency {
        figure("latency, p99", latency.p99_ms, "ms");
        figure("latency, longest", latency.max_ms, "ms");
    }
    match figures.first_error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
