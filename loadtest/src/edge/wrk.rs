//! Runs `wrk` and reads its report.

use std::time::Duration;

use headroom_test_support::child;

use crate::Result;

/// How much longer than planned a run may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What `wrk` has measured.
#[derive(Debug, PartialEq)]
pub(super) struct Measured {
    /// Answers for each second.
    pub(super) rate: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Sends requests to `url` from one thread in closed loops.
pub(super) fn wrk(url: &str, connections: usize, time: Duration) -> Result<Measured> {
    let seconds = time.as_secs().max(1);
    let mut command = child::command("wrk");
    command
        .args(["-t1", "--latency", "-c", &connections.to_string()])
        .args(["-d", &format!("{seconds}s"), url]);
    let deadline = Duration::from_secs(seconds) + TIMEOUT;
    let output = child::output(&mut command, deadline)
        .map_err(|error| format!("wrk does not run (apt-get install wrk): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| format!("no report of wrk, or with errors: {text}").into())
}

/// Reads a report without errors.
fn parse(report: &str) -> Option<Measured> {
    if report.contains("Non-2xx") || report.contains("Socket errors") {
        return None;
    }
    let after = |name: &str| {
        let mut lines = report.lines().map(str::trim);
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    Some(Measured {
        rate: after("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
    })
}

/// A time such as `635.00us`.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, factor) = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  \
        Latency Distribution\n     50%  635.00us\n     75%    1.00ms\n     90%    2.00ms\n     \
        99%    3.50ms\n  1000 requests in 1.00s, 1.00MB read\nRequests/sec:   1000.50\n";

    #[test]
    fn a_report_has_the_rate_and_the_quantiles() {
        let expected = Measured {
            rate: 1000.5,
            p50_ms: 0.635,
            p99_ms: 3.5,
        };
        assert_eq!(parse(REPORT), Some(expected));
        assert_eq!(milliseconds("1.20s"), Some(1200.0));
    }

    #[test]
    fn a_report_with_errors_counts_as_none() {
        let report = format!("{REPORT}  Non-2xx or 3xx responses: 3\n");
        assert_eq!(parse(&report), None);
        assert_eq!(parse("unable to connect"), None);
    }
}
