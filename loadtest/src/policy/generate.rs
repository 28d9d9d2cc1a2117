//! The built-in traces, the same at every run.

use std::time::Duration;

use super::trace::{Model, Request, Trace};
use crate::random::Random;

const MIB: f64 = 1024.0 * 1024.0;

/// A named trace.
pub(crate) struct TraceCase {
    pub(crate) name: String,
    pub(crate) trace: Trace,
    /// What is constant over the trace, if popularity is.
    pub(crate) long_run: Option<LongRun>,
}

/// What is constant over a trace, by model.
pub(crate) struct LongRun {
    /// How often it is requested, in proportion to the others.
    pub(crate) popularity: Vec<f64>,
    /// How long a load usually takes.
    pub(crate) seconds: Vec<f64>,
}

/// All built-in traces, with `requests` requests each.
pub(crate) fn built_in(requests: usize) -> Vec<TraceCase> {
    let mut cases = Vec::new();
    for models in [12, 32, 200] {
        for exponent in [0.6, 0.8, 1.0, 1.2] {
            cases.push(zipf(models, exponent, requests));
        }
    }
    cases.push(scan(requests));
    cases.push(mixed_sizes(requests));
    cases.push(shifting(requests));
    cases.push(sessions(requests));
    cases
}

/// Models of 60 to 200 MiB, each request independent of the others.
fn zipf(models: usize, exponent: f64, requests: usize) -> TraceCase {
    let mut random = Random::new(models as u64);
    let model_set = ModelSet::new(models, 60.0, 200.0, &mut random);
    let sampler = ZipfSampler::zipf(models, exponent);
    let asked = (0..requests).map(|_| sampler.sample(&mut random)).collect();
    TraceCase {
        name: format!("zipf {exponent:.1}, {models} models"),
        trace: model_set.trace(asked, &mut random),
        long_run: Some(sampler.long_run(model_set)),
    }
}

/// Zipf, interrupted by scans that request each model once, as a nightly job does.
fn scan(requests: usize) -> TraceCase {
    let (models, every) = (96, 600);
    let mut random = Random::new(7);
    let model_set = ModelSet::new(models, 60.0, 200.0, &mut random);
    let sampler = ZipfSampler::zipf(models, 0.8);
    let asked = (0..requests).map(|at| match at % (every + models) {
        place if place < every => sampler.sample(&mut random),
        place => place - every,
    });
    let asked = asked.collect();
    TraceCase {
        name: "scan every 600, zipf 0.8, 96 models".to_owned(),
        trace: model_set.trace(asked, &mut random),
        long_run: None,
    }
}

/// Models from small to very large: each doubling of the size has as many.
fn mixed_sizes(requests: usize) -> TraceCase {
    let models = 100;
    let mut random = Random::new(11);
    let model_set = ModelSet::new(models, 10.0, 2048.0, &mut random);
    let sampler = ZipfSampler::zipf(models, 0.8);
    let asked = (0..requests).map(|_| sampler.sample(&mut random)).collect();
    TraceCase {
        name: "10 MiB to 2 GiB, zipf 0.8, 100 models".to_owned(),
        trace: model_set.trace(asked, &mut random),
        long_run: Some(sampler.long_run(model_set)),
    }
}

/// Zipf, but every 1,000 requests other models become popular.
fn shifting(requests: usize) -> TraceCase {
    let models = 96;
    let mut random = Random::new(13);
    let model_set = ModelSet::new(models, 60.0, 200.0, &mut random);
    let sampler = ZipfSampler::zipf(models, 1.0);
    let asked = (0..requests).map(|at| (sampler.sample(&mut random) + at / 1000 * 37) % models);
    let asked = asked.collect();
    TraceCase {
        name: "shift every 1000, zipf 1.0, 96 models".to_owned(),
        trace: model_set.trace(asked, &mut random),
        long_run: None,
    }
}

/// 8 users at a time, in random order. Each requests one model, 20 times on average, and another user
/// follows. So the model of the last request is the most likely one.
fn sessions(requests: usize) -> TraceCase {
    let (models, users, switch_probability) = (96, 8u64, 1.0 / 20.0);
    let mut random = Random::new(17);
    let model_set = ModelSet::new(models, 60.0, 200.0, &mut random);
    let sampler = ZipfSampler::zipf(models, 0.8);
    let mut wanted: Vec<_> = (0..users).map(|_| sampler.sample(&mut random)).collect();
    let asked = (0..requests).map(|_| {
        let user = (random.next() % users) as usize;
        if random.fraction() < switch_probability {
            wanted[user] = sampler.sample(&mut random);
        }
        wanted[user]
    });
    let asked = asked.collect();
    TraceCase {
        name: "8 users, 20 requests each, zipf 0.8, 96 models".to_owned(),
        trace: model_set.trace(asked, &mut random),
        long_run: None,
    }
}

/// Models, and how long each usually takes to load. Size and popularity are independent.
struct ModelSet {
    models: Vec<Model>,
    usual_seconds: Vec<f64>,
}

impl ModelSet {
    /// Makes models of `least` to `most` MiB; each doubling is equally likely. A load takes 0.15 s and
    /// 1 s per GiB, for some models half of that and for some twice as much.
    fn new(count: usize, least: f64, most: f64, random: &mut Random) -> Self {
        let mut usual_seconds = Vec::with_capacity(count);
        let models = (0..count).map(|index| {
            let mib = least * (most / least).powf(random.fraction());
            usual_seconds.push((0.15 + mib / 1024.0) * 2f64.powf(2.0 * random.fraction() - 1.0));
            Model {
                name: format!("model-{index:03}"),
                bytes: bytes(mib * MIB),
            }
        });
        Self {
            models: models.collect(),
            usual_seconds,
        }
    }

    /// Makes a trace of requests for `asked`. Each load time is within 10 % of the usual one.
    fn trace(&self, asked: Vec<usize>, random: &mut Random) -> Trace {
        let requests = asked.into_iter().map(|model| Request {
            model,
            reload: Duration::from_secs_f64(
                self.usual_seconds[model] * (0.9 + 0.2 * random.fraction()),
            ),
        });
        Trace {
            requests: requests.collect(),
            models: self.models.clone(),
        }
    }
}

fn bytes(number: f64) -> u64 {
    number as u64
}

/// Picks the model of rank r with a probability proportional to 1 / r^exponent.
struct ZipfSampler {
    /// The sums of the shares, up to and with each model's.
    cumulative: Vec<f64>,
}

impl ZipfSampler {
    fn zipf(models: usize, exponent: f64) -> Self {
        let mut total = 0.0;
        let cumulative = (1..=models).map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        });
        Self {
            cumulative: cumulative.collect(),
        }
    }

    fn sample(&self, random: &mut Random) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let point = random.fraction() * total;
        let place = self.cumulative.partition_point(|end| *end <= point);
        place.min(self.cumulative.len().saturating_sub(1))
    }

    fn long_run(&self, model_set: ModelSet) -> LongRun {
        let begins = std::iter::once(&0.0).chain(&self.cumulative);
        let shares = self.cumulative.iter().zip(begins);
        LongRun {
            popularity: shares.map(|(end, begin)| end - begin).collect(),
            seconds: model_set.usual_seconds,
        }
    }
}
