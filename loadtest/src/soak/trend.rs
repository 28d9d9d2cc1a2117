//! How the sampled quantities change with time, and how much they may.

use headroom_measure::Verdict;
use serde::Serialize;

use super::line::Line;
use super::load::TURNS_PER_SECOND;
use super::sampler::Sample;

/// A quantity of a [`Sample`].
struct Quantity {
    name: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> f64,
    limit: Limit,
}

/// How much a quantity may grow.
#[derive(Clone, Copy)]
enum Limit {
    /// At most this much in an hour.
    Slope {
        per_hour: f64,
        /// Growth within the fitted time that is not told from noise. In a short time, it is more than `per_hour` allows.
        noise: f64,
    },
    /// Not at all: it stays 0.
    Zero,
}

/// Lines that one load and the unload for it may log: what is loaded and unloaded, a level that rises and falls, and
/// what subscribers do about it.
const LINES_PER_LOAD: f64 = 4.0;

/// Lines that may be logged in an hour for all else.
const OTHER_LINES_PER_HOUR: f64 = 600.0;

const LINES_PER_HOUR: f64 = LINES_PER_LOAD * TURNS_PER_SECOND * 3600.0 + OTHER_LINES_PER_HOUR;

/// docs/load-tests.md has the limits, too.
const QUANTITIES: [Quantity; 10] = [
    Quantity {
        name: "server, PSS",
        unit: "MiB",
        of: |sample| mebibytes(sample.server_bytes),
        limit: slope(4.0, 2.0),
    },
    Quantity {
        name: "all model processes, PSS",
        unit: "MiB",
        of: |sample| mebibytes(sample.models_bytes),
        limit: slope(64.0, 64.0),
    },
    Quantity {
        name: "hosts that stay loaded, private memory",
        unit: "MiB",
        of: |sample| mebibytes(sample.steady_hosts_bytes),
        limit: slope(4.0, 2.0),
    },
    Quantity {
        name: "private servers, PSS",
        unit: "MiB",
        of: |sample| mebibytes(sample.private_servers_bytes),
        limit: slope(16.0, 8.0),
    },
    Quantity {
        name: "processes",
        unit: "",
        of: |sample| sample.processes as f64,
        limit: slope(2.0, 4.0),
    },
    Quantity {
        name: "server, open descriptors",
        unit: "",
        of: |sample| sample.descriptors as f64,
        limit: slope(4.0, 8.0),
    },
    Quantity {
        name: "server, threads",
        unit: "",
        of: |sample| sample.threads as f64,
        limit: slope(2.0, 4.0),
    },
    Quantity {
        name: "series on /metrics",
        unit: "",
        of: |sample| sample.series as f64,
        limit: slope(10.0, 10.0),
    },
    Quantity {
        name: "log lines",
        unit: "",
        of: |sample| sample.log_lines as f64,
        limit: slope(LINES_PER_HOUR, OTHER_LINES_PER_HOUR / 10.0),
    },
    Quantity {
        name: "failed requests",
        unit: "",
        of: |sample| sample.failed as f64,
        limit: Limit::Zero,
    },
];

const fn slope(per_hour: f64, noise: f64) -> Limit {
    Limit::Slope { per_hour, noise }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// How a quantity has changed.
#[derive(Debug, Serialize)]
pub(super) struct Trend {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// The first and the last sample of all.
    pub(super) first: f64,
    pub(super) last: f64,
    /// The slope of the line through the fitted samples.
    pub(super) slope_per_hour: f64,
    /// What the slope may be at most; or, of failed requests, the last sample.
    pub(super) limit: f64,
    pub(super) verdict: Verdict,
    /// Hours and values of all samples.
    #[serde(skip)]
    pub(super) points: Vec<(f64, f64)>,
    /// The ends of the line.
    #[serde(skip)]
    pub(super) fitted: [(f64, f64); 2],
}

/// The trends of all quantities. Fitted are the samples of the last two thirds of the time: what has just started still
/// grows. `None` without two of them.
pub(super) fn trends(samples: &[Sample]) -> Option<Vec<Trend>> {
    let end = samples.last()?.hours;
    let begin = end / 3.0;
    let trend = |quantity: &Quantity| {
        let points: Vec<_> = samples
            .iter()
            .map(|sample| (sample.hours, (quantity.of)(sample)))
            .collect();
        let from = points.partition_point(|(hours, _)| *hours < begin);
        let line = Line::through(&points[from..])?;
        let (first, last) = (points.first()?.1, points.last()?.1);
        let (limit, is_kept) = match quantity.limit {
            Limit::Slope { per_hour, noise } => {
                let limit = per_hour.max(noise / (end - begin));
                (limit, line.slope <= limit)
            }
            Limit::Zero => (0.0, last == 0.0),
        };
        Some(Trend {
            name: quantity.name,
            unit: quantity.unit,
            first,
            last,
            slope_per_hour: line.slope,
            limit,
            verdict: is_kept.into(),
            fitted: [begin, end].map(|hours| (hours, line.at(hours))),
            points,
        })
    };
    QUANTITIES.iter().map(trend).collect()
}

/// Prints the trends as a table.
pub(super) fn print(trends: &[Trend]) {
    println!("\n| quantity | first | last | slope per hour | limit | verdict |");
    println!("|---|---|---|---|---|---|");
    for it in trends {
        let verdict = match it.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
        };
        let unit = match it.unit {
            "" => String::new(),
            unit => format!(", {unit}"),
        };
        println!(
            "| {}{unit} | {:.1} | {:.1} | {:+.2} | {:.1} | {verdict} |",
            it.name, it.first, it.last, it.slope_per_hour, it.limit,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample every six seconds of an hour.
    fn hour(sample: impl Fn(f64) -> Sample) -> Vec<Sample> {
        let hours = (0..=600).map(|number| f64::from(number) / 600.0);
        hours
            .map(|hours| Sample {
                hours,
                ..sample(hours)
            })
            .collect()
    }

    /// The quantities that grow too much.
    fn failed(samples: &[Sample]) -> Vec<&'static str> {
        let trends = trends(samples).unwrap();
        let failed = trends
            .iter()
            .filter(|trend| trend.verdict == Verdict::Failed);
        failed.map(|trend| trend.name).collect()
    }

    #[test]
    fn what_grows_faster_than_its_limit_fails_alone() {
        let leak = |mebibytes: f64| {
            hour(|hours| Sample {
                // Rounded to pages.
                server_bytes: (50 << 20) + (mebibytes * hours * 256.0) as u64 * 4096,
                ..Sample::default()
            })
        };
        assert_eq!(failed(&leak(3.9)), [""; 0]);
        assert_eq!(failed(&leak(4.1)), ["server, PSS"]);
        let descriptors = hour(|hours| Sample {
            descriptors: (20.0 + 30.0 * hours) as usize,
            ..Sample::default()
        });
        assert_eq!(failed(&descriptors), ["server, open descriptors"]);
        let log_lines = hour(|hours| Sample {
            log_lines: (82_000.0 * hours) as u64,
            ..Sample::default()
        });
        assert_eq!(failed(&log_lines), ["log lines"]);
    }

    #[test]
    fn growth_in_the_first_third_is_not_judged() {
        let warm_up = hour(|hours| Sample {
            threads: (hours.min(0.33) * 100.0) as usize,
            ..Sample::default()
        });
        assert_eq!(failed(&warm_up), [""; 0]);
    }

    #[test]
    fn one_failed_request_fails() {
        let mut samples = hour(|_| Sample::default());
        samples.last_mut().unwrap().failed = 1;
        assert_eq!(failed(&samples), ["failed requests"]);
    }

    #[test]
    fn a_short_time_allows_what_is_not_told_from_noise() {
        let mut samples = hour(|hours| Sample {
            // One more in the last two thirds.
            descriptors: (20.0 + 1.5 * hours) as usize,
            ..Sample::default()
        });
        // An hour becomes two minutes.
        for sample in &mut samples {
            sample.hours /= 30.0;
        }
        let trends = trends(&samples).unwrap();
        let descriptors = trends.iter().find(|it| it.name.ends_with("descriptors"));
        // 8 in 80 seconds.
        assert!((descriptors.unwrap().limit - 360.0).abs() < 1e-9);
        assert_eq!(failed(&samples), [""; 0]);
    }

    #[test]
    fn too_few_samples_have_no_trends() {
        assert!(trends(&[]).is_none());
        assert!(trends(&[Sample::default()]).is_none());
    }
}
