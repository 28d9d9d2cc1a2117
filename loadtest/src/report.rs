//! The report: lines of figures.

use std::fs;

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

/// Prints the number of cores, and the load average of the last minute.
pub(crate) fn load_average() {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split(' ').next().unwrap_or_default();
    println!("{cores} cores, load average {load}");
}
