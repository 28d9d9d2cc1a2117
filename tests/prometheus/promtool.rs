//! The programs of Prometheus.

use std::process::Command;
use std::time::Duration;

use headroom_test_support::{capability, child};

/// Longest time for a run of promtool.
const CHECKED_WITHIN: Duration = Duration::from_secs(60);

/// Whether Prometheus is installed. If it is not, the test is skipped.
pub(crate) fn is_installed() -> bool {
    let installed = ["prometheus", "promtool"].map(|program| child::find(program).is_some());
    let installed = installed == [true, true];
    if !installed {
        capability::skip("prometheus is missing (scripts/setup.sh prometheus)");
    }
    installed
}

/// A promtool with these arguments.
pub(crate) fn promtool(arguments: &[&str]) -> Command {
    let mut command = child::command("promtool");
    command.args(arguments);
    command
}

/// What it prints, if it succeeds.
pub(crate) fn report(mut command: Command) -> String {
    let output = child::output(&mut command, CHECKED_WITHIN).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{report}");
    report
}
