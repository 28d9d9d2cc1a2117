//! The report: lines of figures.

use std::fs;
use std::time::SystemTime;

/// Prints a section's title.
pub(crate) fn title(title: &str) {
    println!("\n{title}");
}

/// Prints a figure.
pub(crate) fn figure(name: &str, value: f64, unit: &str) {
    println!("  {name:<58} {value:>10.3} {unit}");
}

/// Prints a figure with the upper bound that is aimed at.
pub(crate) fn figure_at_most(target: f64, name: &str, value: f64, unit: &str) {
    println!("  {name:<58} {value:>10.3} {unit:<6}   target: at most {target} {unit}");
}

/// Prints a figure with the lower bound that is aimed at.
pub(crate) fn figure_at_least(target: f64, name: &str, value: f64, unit: &str) {
    println!("  {name:<58} {value:>10.3} {unit:<6}   target: at least {target} {unit}");
}

/// Prints what is measured and where: the commit, the day, the processor and its cores.
pub(crate) fn origin() {
    let commit = option_env!("HEADROOM_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.unwrap_or("not recorded");
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let day = now.split('T').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1));
    let model = model.unwrap_or("unknown processor");
    println!("commit {commit}, {day}, {cores} cores of {model}");
}

/// Prints the load average of the last minute.
pub(crate) fn load_average() {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().unwrap_or_default();
    println!("load average {load}");
}
