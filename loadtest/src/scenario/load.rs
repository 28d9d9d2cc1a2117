//! Loads of the sample model with a warm zygote: fork, load, warm-up.

use std::time::{Duration, Instant};

use headroom_test_support::models::{Models, SAMPLE};

use crate::Error;
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::{Binaries, repository};

const LOADS: usize = 20;

pub(crate) fn load(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let models = Models::new();
    models.add_sample();
    let server = binaries.start(&models, "");
    let begun = Instant::now();
    repository(&server, SAMPLE, "load")?;
    let cold = begun.elapsed();
    repository(&server, SAMPLE, "unload")?;
    let (mut loads, mut unloads) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        loads.push(timed(|| repository(&server, SAMPLE, "load"))?);
        unloads.push(timed(|| repository(&server, SAMPLE, "unload"))?);
    }
    let (loads, unloads) = (Samples::of_times(loads), Samples::of_times(unloads));
    let name = format!("load with a warm zygote, over HTTP, median of {LOADS}");
    Ok(vec![
        Figure::new(name, loads.median(), "ms").at_most(100.0),
        Figure::new("load with a warm zygote, slowest", loads.at(1.0), "ms"),
        Figure::new(
            "unload until its memory is back, median",
            unloads.median(),
            "ms",
        ),
        Figure::new(
            "first load, which starts the zygote",
            cold.as_secs_f64() * 1e3,
            "ms",
        ),
    ])
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}
