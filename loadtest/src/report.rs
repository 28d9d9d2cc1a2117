//! The report: a table of figures, and the same as JSON.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Error;

/// One figure.
#[derive(Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// The upper bound that is aimed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            target: None,
        }
    }

    pub(crate) fn at_most(self, target: f64) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }
}

/// All figures of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    machine: Machine,
    sections: Vec<Section>,
}

#[derive(Serialize)]
struct Section {
    name: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn begin() -> Self {
        Self {
            machine: Machine::begin(),
            sections: Vec::new(),
        }
    }

    /// Adds a section and prints it.
    pub(crate) fn section(&mut self, name: &'static str, figures: Vec<Figure>) {
        println!("\n{name}");
        for figure in &figures {
            let target = figure.target.map_or(String::new(), |target| {
                format!("   target: at most {target} {}", figure.unit)
            });
            let Figure {
                name, value, unit, ..
            } = figure;
            println!("  {name:<58} {value:>10.3} {unit:<6}{target}");
        }
        self.sections.push(Section { name, figures });
    }

    pub(crate) fn end(&mut self) {
        self.machine.end();
    }
}

/// The machine's cores, and its load average before and after the measurements.
#[derive(Serialize)]
struct Machine {
    cores: usize,
    load_average: Vec<f64>,
}

impl Machine {
    fn begin() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let load = load_average();
        println!("{cores} cores, load average {load:.2} before");
        Self {
            cores,
            load_average: vec![load],
        }
    }

    fn end(&mut self) {
        let load = load_average();
        println!("\nload average {load:.2} after");
        self.load_average.push(load);
    }
}

/// Writes `report` into a file.
pub(crate) fn write_json(report: &impl Serialize, path: &Path) -> Result<(), Error> {
    let what = || format!("cannot write {}", path.display());
    let json = serde_json::to_string_pretty(report);
    let json = json.map_err(|error| Error::io(what())(error.into()))?;
    fs::write(path, json + "\n").map_err(Error::io(what()))
}

/// The load average of the last minute.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_ascii_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}
