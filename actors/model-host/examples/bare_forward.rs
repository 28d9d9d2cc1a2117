//! The reference: one process with libtorch and nothing else runs a speech model over a WAV file.
//!
//! Tests compare the server's outputs with its outputs, and measurements compare the server's times
//! with its times. It shares no code with the host and uses plain `tch`.
//!
//! Usage: bare_forward MODEL WAV [--skip N] [--forwards N] [--rows N] [--fresh] [--bench N]

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is its result"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use headroom_test_support::wav;
use serde_json::{Value, json};
use tch::{CModule, IValue, TchError, Tensor};

/// Samples of one run, at [`RATE`].
const CHUNK: usize = 512;

const RATE: i64 = 16_000;

/// Runs before a measurement, because the profiling executor makes the first runs slow.
const WARM_UP: usize = 20;

/// The pause before each run in one of the measurements, about as long as the other parts of a request take. After a
/// pause the processor has to wake up, and its caches have other data.
const PAUSE: Duration = Duration::from_micros(300);

struct Options {
    model: PathBuf,
    wav: PathBuf,
    /// The first chunk to use.
    skip: usize,
    /// Number of runs; `None` for the whole file.
    forwards: Option<usize>,
    /// Consecutive chunks that are the rows of one run.
    rows: usize,
    /// Reset the model's state before each run.
    fresh: bool,
    /// Measure this many runs, and print times instead of outputs.
    bench: Option<usize>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options).map_err(|error| error.to_string())) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bare_forward: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut arguments = std::env::args().skip(1);
    let mut path = |what: &str| {
        arguments
            .next()
            .map(PathBuf::from)
            .ok_or(format!("no {what}"))
    };
    let mut options = Options {
        model: path("MODEL")?,
        wav: path("WAV")?,
        skip: 0,
        forwards: None,
        rows: 1,
        fresh: false,
        bench: None,
    };
    while let Some(option) = arguments.next() {
        if option == "--fresh" {
            options.fresh = true;
            continue;
        }
        let number = arguments.next().and_then(|text| text.parse().ok());
        let number: usize = number.ok_or(format!("{option} takes a number"))?;
        match option.as_str() {
            "--skip" => options.skip = number,
            "--forwards" => options.forwards = Some(number),
            "--rows" => options.rows = number.max(1),
            "--bench" => options.bench = Some(number.max(1)),
            _ => return Err(format!("there is no option {option}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<Value, TchError> {
    let _no_grad = tch::no_grad_guard();
    tch::set_num_threads(1);
    let batches = batches(options);
    match options.bench {
        None => {
            let mut model = Bare::load(options)?;
            let outputs: Vec<Vec<f32>> = batches
                .iter()
                .map(|batch| model.forward(batch, options))
                .collect::<Result<_, _>>()?;
            Ok(json!({ "outputs": outputs }))
        }
        Some(runs) => Ok(json!({
            "optimized": measure(options, &batches, runs, true, Duration::ZERO)?,
            "plain": measure(options, &batches, runs, false, Duration::ZERO)?,
            "paused": measure(options, &batches, runs, false, PAUSE)?,
        })),
    }
}

/// The samples as inputs of the model.
fn batches(options: &Options) -> Vec<Vec<f32>> {
    let chunks = wav::chunks(&options.wav, CHUNK);
    let chunks = chunks.get(options.skip..).unwrap_or_default();
    let batches = chunks.chunks_exact(options.rows).map(<[_]>::concat);
    batches
        .take(options.forwards.unwrap_or(usize::MAX))
        .collect()
}

struct Bare(CModule);

impl Bare {
    fn load(options: &Options) -> Result<Self, TchError> {
        let mut model = Self(CModule::load(&options.model)?);
        model.reset()?;
        Ok(model)
    }

    fn reset(&mut self) -> Result<(), TchError> {
        self.0.method_is::<IValue>("reset_states", &[]).map(drop)
    }

    fn forward(&mut self, batch: &[f32], options: &Options) -> Result<Vec<f32>, TchError> {
        if options.fresh {
            self.reset()?;
        }
        let input = Tensor::from_slice(batch).view([-1, CHUNK as i64]);
        let output = self
            .0
            .forward_is(&[IValue::Tensor(input), IValue::Int(RATE)])?;
        Vec::try_from(Tensor::try_from(output)?.view([-1]))
    }
}

/// Milliseconds per run, with a pause before each.
#[expect(clippy::disallowed_methods, reason = "there are no async tasks")]
fn measure(
    options: &Options,
    batches: &[Vec<f32>],
    runs: usize,
    optimize: bool,
    pause: Duration,
) -> Result<Value, TchError> {
    tch::jit::set_graph_executor_optimize(optimize);
    let mut model = Bare::load(options)?;
    let mut inputs = batches.iter().cycle();
    let mut times = Vec::with_capacity(runs);
    for run in 0..WARM_UP + runs {
        let Some(batch) = inputs.next() else {
            return Err(TchError::FileFormat("the file is too short".to_owned()));
        };
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let begun = Instant::now();
        model.forward(batch, options)?;
        if run >= WARM_UP {
            times.push(begun.elapsed());
        }
    }
    times.sort();
    let at = |share: f64| times[((runs - 1) as f64 * share) as usize];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(json!({
        "runs": runs,
        "p50_ms": milliseconds(at(0.5)),
        "p99_ms": milliseconds(at(0.99)),
    }))
}
