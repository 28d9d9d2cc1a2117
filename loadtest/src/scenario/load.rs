//! Loads of the sample model with a warm zygote: fork, load, warm-up.

use std::path::Path;
use std::time::{Duration, Instant};

use headroom_test_support::models::{Models, SAMPLE};

use super::{repository, start};
use crate::Result;
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

const LOADS: usize = 20;

pub(super) fn measure(binary: &Path) -> Result<()> {
    let models = Models::new();
    models.add_sample();
    let server = start(binary, &models, "");
    let timed = |what| -> Result<Duration> {
        let begun = Instant::now();
        repository(&server, SAMPLE, what)?;
        Ok(begun.elapsed())
    };
    // The first load starts the zygote.
    let first = timed("load")?;
    timed("unload")?;
    let (mut loads, mut unloads) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        loads.push(timed("load")?);
        unloads.push(timed("unload")?);
    }
    let (loads, unloads) = (Samples::of_times(loads), Samples::of_times(unloads));
    let name = "load with a warm zygote, over HTTP, median";
    figure_at_most(100.0, name, loads.median(), "ms");
    figure("load with a warm zygote, slowest", loads.at(1.0), "ms");
    let name = "unload until its memory is back, median";
    figure(name, unloads.median(), "ms");
    let name = "first load, which starts the zygote";
    figure(name, first.as_secs_f64() * 1e3, "ms");
    Ok(())
}
