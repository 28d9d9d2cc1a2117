//! Scrapes of the metrics with many models: first only known, then each used.

use std::fs;
use std::path::Path;
use std::time::Instant;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, infer_path};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;

use super::{repository, start};
use crate::Result;
use crate::client::{Connection, get, post};
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

const MODELS: usize = 500;

const SCRAPES: usize = 200;

fn name(number: usize) -> String {
    format!("model-{number}")
}

pub(super) fn measure(binary: &Path) -> Result<()> {
    let models = Models::new();
    models.add(&name(0), 1, torchscript::affine);
    let file = models.version(&name(0), 1).join("model.pt");
    for number in 1..MODELS {
        models.add(&name(number), 1, |path| fs::hard_link(&file, path));
    }
    let server = start(binary, &models, "");
    let mut main = Connection::open(server.address())?;
    // It lets the server look at the folder.
    let index = main.ask(&post("/v2/repository/index", "{}"))?;
    let known: Vec<serde_json::Value> = serde_json::from_slice(index)?;
    if known.len() != MODELS {
        return Err(format!("the server knows {} models", known.len()).into());
    }
    scrape(&server, "500 known models")?;
    // Each model has its series from its first use on.
    let input = floats("x", &[1.0]).to_string();
    for number in 0..MODELS {
        main.ask(&post(&infer_path(&name(number)), &input))?;
        repository(&server, &name(number), "unload")?;
    }
    scrape(&server, "500 used models")
}

fn scrape(server: &Server, what: &str) -> Result<()> {
    // The admin listener soon closes an idle connection.
    let mut admin = Connection::open(server.admin_address())?;
    let request = get("/metrics");
    let (mut times, mut bytes, mut series) = (Vec::with_capacity(SCRAPES), 0, 0);
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        let text = admin.ask(&request)?;
        times.push(begun.elapsed());
        bytes = text.len();
        series = self::series(text);
    }
    let times = Samples::of_times(times);
    figure_at_most(
        100.0,
        &format!("scrape, {what}, median"),
        times.median(),
        "ms",
    );
    figure(&format!("scrape, {what}, p99"), times.at(0.99), "ms");
    figure(&format!("series, {what}"), series as f64, "");
    figure(&format!("size, {what}"), bytes as f64 / 1024.0, "KiB");
    Ok(())
}

/// The number of series in the text of a scrape.
pub(crate) fn series(text: &[u8]) -> usize {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter(|line| line.first().is_some_and(|first| *first != b'#'))
        .count()
}
