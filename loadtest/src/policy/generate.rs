//! The built-in traces, the same at every run.

use std::time::Duration;

use headroom_measure::Random;

use super::offline::KnownPopularity;
use super::trace::{Model, Request, Trace};

const MIB: f64 = 1024.0 * 1024.0;

/// The size of most models in MiB, at least and at most.
const USUAL_MIB: [f64; 2] = [60.0, 200.0];

/// A named trace.
pub(crate) struct TraceCase {
    pub(crate) name: String,
    pub(crate) trace: Trace,
    /// How popular its models are, if that is constant.
    pub(crate) popularity: Option<KnownPopularity>,
}

/// All built-in traces, with `requests` requests each.
pub(crate) fn built_in(requests: usize) -> Vec<TraceCase> {
    let mut cases = Vec::new();
    for models in [12, 32, 200] {
        for exponent in [0.6, 0.8, 1.0, 1.2] {
            let name = format!("zipf {exponent:.1}, {models} models");
            let generator = Generator::new(models as u64, models, USUAL_MIB, exponent);
            cases.push(independent(name, generator, requests));
        }
    }
    cases.push(scan(requests));
    // From small to very large: each doubling of the size has as many models.
    let name = "10 MiB to 2 GiB, zipf 0.8, 100 models".to_owned();
    let generator = Generator::new(11, 100, [10.0, 2048.0], 0.8);
    cases.push(independent(name, generator, requests));
    cases.push(shifting(requests));
    cases.push(sessions(requests));
    cases
}

/// Each request is independent of the others.
fn independent(name: String, mut generator: Generator, requests: usize) -> TraceCase {
    let asked = (0..requests).map(|_| generator.sample()).collect();
    let popularity = Some(generator.popularity());
    TraceCase {
        popularity,
        ..generator.into_case(name, asked)
    }
}

/// Zipf, interrupted by scans that request each model once, as a nightly job does.
fn scan(requests: usize) -> TraceCase {
    let (models, every) = (96, 600);
    let mut generator = Generator::new(7, models, USUAL_MIB, 0.8);
    let asked = (0..requests).map(|at| match at % (every + models) {
        place if place < every => generator.sample(),
        place => place - every,
    });
    let asked = asked.collect();
    generator.into_case("scan every 600, zipf 0.8, 96 models", asked)
}

/// Zipf, but every 1,000 requests other models become popular.
fn shifting(requests: usize) -> TraceCase {
    let models = 96;
    let mut generator = Generator::new(13, models, USUAL_MIB, 1.0);
    let asked = (0..requests).map(|at| (generator.sample() + at / 1000 * 37) % models);
    let asked = asked.collect();
    generator.into_case("shift every 1000, zipf 1.0, 96 models", asked)
}

/// 8 users at a time, in random order. Each requests one model, 20 times on average, and another user
/// follows. So the model of the last request is the most likely one.
fn sessions(requests: usize) -> TraceCase {
    let (users, switch_probability) = (8u64, 1.0 / 20.0);
    let mut generator = Generator::new(17, 96, USUAL_MIB, 0.8);
    let mut wanted: Vec<_> = (0..users).map(|_| generator.sample()).collect();
    let asked = (0..requests).map(|_| {
        let user = (generator.random.next() % users) as usize;
        if generator.random.fraction() < switch_probability {
            wanted[user] = generator.sample();
        }
        wanted[user]
    });
    let asked = asked.collect();
    generator.into_case("8 users, 20 requests each, zipf 0.8, 96 models", asked)
}

/// Models with random sizes and load times, and how popular they are. Size and popularity are
/// independent.
struct Generator {
    random: Random,
    models: Vec<Model>,
    /// How long each model usually takes to load.
    seconds: Vec<f64>,
    /// In proportion to the others, how often each model is requested.
    weights: Vec<f64>,
}

impl Generator {
    /// Makes models of `least` to `most` MiB; each doubling is equally likely. A load takes 0.15 s and
    /// 1 s per GiB, for some models half of that and for some twice as much. The model of rank r is
    /// requested in proportion to 1 / r^exponent.
    fn new(seed: u64, models: usize, [least, most]: [f64; 2], exponent: f64) -> Self {
        let mut random = Random::new(seed);
        let mut seconds = Vec::with_capacity(models);
        let model = |index| {
            let mib = least * f64::powf(most / least, random.fraction());
            seconds.push((0.15 + mib / 1024.0) * 2f64.powf(2.0 * random.fraction() - 1.0));
            Model {
                name: format!("model-{index:03}"),
                bytes: bytes(mib * MIB),
            }
        };
        Self {
            models: (0..models).map(model).collect(),
            seconds,
            random,
            weights: (1..=models)
                .map(|rank| (rank as f64).powf(-exponent))
                .collect(),
        }
    }

    /// A model, by popularity.
    fn sample(&mut self) -> usize {
        let mut left = self.random.fraction() * self.weights.iter().sum::<f64>();
        let reached = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        let last = self.weights.len() - 1;
        self.weights.iter().position(reached).unwrap_or(last)
    }

    fn popularity(&self) -> KnownPopularity {
        let saved = self.weights.iter().zip(&self.seconds);
        let saved = saved.map(|(weight, seconds)| weight * seconds);
        let names = self.models.iter().map(|model| model.name.clone());
        KnownPopularity(names.zip(saved).collect())
    }

    /// The trace of requests for the models `asked`. Each load time is within 10 % of the usual one.
    fn into_case(mut self, name: impl Into<String>, asked: Vec<usize>) -> TraceCase {
        let request = |model: usize| {
            let seconds = self.seconds[model] * (0.9 + 0.2 * self.random.fraction());
            Request {
                model,
                reload: Duration::from_secs_f64(seconds),
            }
        };
        TraceCase {
            name: name.into(),
            trace: Trace {
                requests: asked.into_iter().map(request).collect(),
                models: self.models,
            },
            popularity: None,
        }
    }
}

fn bytes(number: f64) -> u64 {
    number as u64
}
