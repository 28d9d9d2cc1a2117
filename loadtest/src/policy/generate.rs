//! The built-in traces, the same at every run.

use std::time::Duration;

use super::trace::{Model, Request, Trace};
use crate::random::Random;

const MIB: f64 = 1024.0 * 1024.0;

/// A trace and what it shows.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) trace: Trace,
    /// Where that never changes, what there is to learn.
    pub(crate) informed: Option<LongRun>,
}

/// Of each model, what is so in the long run.
pub(crate) struct LongRun {
    /// How often it is asked for, in proportion to the others.
    pub(crate) popularity: Vec<f64>,
    /// How long a load usually takes.
    pub(crate) seconds: Vec<f64>,
}

/// All of them, with `requests` requests each.
pub(crate) fn samples(requests: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    for models in [12, 32, 200] {
        for exponent in [0.6, 0.8, 1.0, 1.2] {
            samples.push(zipf(models, exponent, requests));
        }
    }
    samples.push(scan(requests));
    samples.push(mixed_sizes(requests));
    samples.push(shifting(requests));
    samples.push(sessions(requests));
    samples
}

/// Models of 60 to 200 MiB, each request independent of the others.
fn zipf(models: usize, exponent: f64, requests: usize) -> Sample {
    let mut random = Random::new(models as u64);
    let catalogue = Catalogue::new(models, 60.0, 200.0, &mut random);
    let wheel = Wheel::zipf(models, exponent);
    let asked = (0..requests).map(|_| wheel.turn(&mut random)).collect();
    Sample {
        name: format!("zipf {exponent:.1}, {models} models"),
        trace: catalogue.trace(asked, &mut random),
        informed: Some(wheel.long_run(catalogue)),
    }
}

/// Zipf, and now and then everything once in a row, as a nightly job does.
fn scan(requests: usize) -> Sample {
    let (models, every) = (96, 600);
    let mut random = Random::new(7);
    let catalogue = Catalogue::new(models, 60.0, 200.0, &mut random);
    let wheel = Wheel::zipf(models, 0.8);
    let asked = (0..requests).map(|at| match at % (every + models) {
        place if place < every => wheel.turn(&mut random),
        place => place - every,
    });
    let asked = asked.collect();
    Sample {
        name: "scan every 600, zipf 0.8, 96 models".to_owned(),
        trace: catalogue.trace(asked, &mut random),
        informed: None,
    }
}

/// From small to very large, as many of each size per doubling.
fn mixed_sizes(requests: usize) -> Sample {
    let models = 100;
    let mut random = Random::new(11);
    let catalogue = Catalogue::new(models, 10.0, 2048.0, &mut random);
    let wheel = Wheel::zipf(models, 0.8);
    let asked = (0..requests).map(|_| wheel.turn(&mut random)).collect();
    Sample {
        name: "10 MiB to 2 GiB, zipf 0.8, 100 models".to_owned(),
        trace: catalogue.trace(asked, &mut random),
        informed: Some(wheel.long_run(catalogue)),
    }
}

/// Zipf, but every 1,000 requests other models are the popular ones.
fn shifting(requests: usize) -> Sample {
    let models = 96;
    let mut random = Random::new(13);
    let catalogue = Catalogue::new(models, 60.0, 200.0, &mut random);
    let wheel = Wheel::zipf(models, 1.0);
    let asked = (0..requests).map(|at| (wheel.turn(&mut random) + at / 1000 * 37) % models);
    let asked = asked.collect();
    Sample {
        name: "shift every 1000, zipf 1.0, 96 models".to_owned(),
        trace: catalogue.trace(asked, &mut random),
        informed: None,
    }
}

/// Users come, each for one model, ask for it 20 times on average, and go: 8 at a time, in turns as
/// it happens. What was asked for a moment ago is most likely to be asked for again.
fn sessions(requests: usize) -> Sample {
    let (models, users, goes) = (96, 8u64, 1.0 / 20.0);
    let mut random = Random::new(17);
    let catalogue = Catalogue::new(models, 60.0, 200.0, &mut random);
    let wheel = Wheel::zipf(models, 0.8);
    let mut wanted: Vec<_> = (0..users).map(|_| wheel.turn(&mut random)).collect();
    let asked = (0..requests).map(|_| {
        let user = (random.next() % users) as usize;
        if random.fraction() < goes {
            wanted[user] = wheel.turn(&mut random);
        }
        wanted[user]
    });
    let asked = asked.collect();
    Sample {
        name: "8 users, 20 requests each, zipf 0.8, 96 models".to_owned(),
        trace: catalogue.trace(asked, &mut random),
        informed: None,
    }
}

/// Models, and how long each usually takes to load. Size has nothing to do with popularity.
struct Catalogue {
    models: Vec<Model>,
    usual: Vec<f64>,
}

impl Catalogue {
    /// Sizes from `least` to `most` MiB, each doubling as likely as any other. A load takes 0.15 s and
    /// 1 s per GiB, but some models take half of it and some twice as long.
    fn new(count: usize, least: f64, most: f64, random: &mut Random) -> Self {
        let mut usual = Vec::with_capacity(count);
        let models = (0..count).map(|index| {
            let mib = least * (most / least).powf(random.fraction());
            usual.push((0.15 + mib / 1024.0) * 2f64.powf(2.0 * random.fraction() - 1.0));
            Model {
                name: format!("model-{index:03}"),
                bytes: bytes(mib * MIB),
            }
        });
        Self {
            models: models.collect(),
            usual,
        }
    }

    /// Requests for models, each load within 10 % of what it usually takes.
    fn trace(&self, asked: Vec<usize>, random: &mut Random) -> Trace {
        let requests = asked.into_iter().map(|model| Request {
            model,
            reload: Duration::from_secs_f64(self.usual[model] * (0.9 + 0.2 * random.fraction())),
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
struct Wheel {
    /// Up to where each model's share reaches.
    reach: Vec<f64>,
}

impl Wheel {
    fn zipf(models: usize, exponent: f64) -> Self {
        let mut total = 0.0;
        let reach = (1..=models).map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        });
        Self {
            reach: reach.collect(),
        }
    }

    fn turn(&self, random: &mut Random) -> usize {
        let total = self.reach.last().copied().unwrap_or_default();
        let point = random.fraction() * total;
        let place = self.reach.partition_point(|reach| *reach <= point);
        place.min(self.reach.len().saturating_sub(1))
    }

    fn long_run(&self, catalogue: Catalogue) -> LongRun {
        let begins = std::iter::once(&0.0).chain(&self.reach);
        let shares = self.reach.iter().zip(begins);
        LongRun {
            popularity: shares.map(|(end, begin)| end - begin).collect(),
            seconds: catalogue.usual,
        }
    }
}
