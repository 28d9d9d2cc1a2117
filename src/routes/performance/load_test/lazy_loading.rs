//! The scenario `lazy_loading`: models are loaded, used and unloaded by the lazy loader, as requests for
//! them and operators do it.
//!
//! Models that were loaded before are not unloaded, so they give only hits. Neither are those that are
//! pinned, or that others load or use during the scenario. What the scenario has loaded in its last round
//! stays loaded. Loads and unloads are done one after the other, hits in a closed loop: a hit waits for
//! nothing but the loader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headroom_actors::kernel::AskError;
use headroom_actors::lazy::{
    Acquire, AcquireError, Clear, ClearOutcome, KeptReason, Lease, Phase, ResourceStatus, Status,
};
use headroom_actors::model::Rescan;
use headroom_measure::{Failure, Meter, Pace, Workload};
use serde::Serialize;

use super::parameters::{LazyLoading, MODELS_MAX};
use super::run::{CALLER_BYTES, CannotRun, Measured, OPERATION_WITHIN, Run, operation, workload};
use super::thread::on_own_thread;
use crate::problem::Problem;
use crate::routes::performance::resource_name::resolve;

/// The kind of resources that are models.
const MODEL: &str = "model";

/// How long an unload may take.
const UNLOAD_WITHIN: Duration = Duration::from_secs(10);

/// How long the loader may take to give its status at the end.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// What the scenario has loaded.
#[derive(Debug, Serialize)]
pub(super) struct Loads {
    /// The models that were loaded or used.
    models: Vec<String>,
    /// Those of them that were loaded before, and so give only hits.
    loaded_before: Vec<String>,
    /// Those of them that were not unloaded after each round, because they are pinned, or others have loaded
    /// or used them meanwhile.
    left_to_others: Vec<String>,
    /// Resources that were drained during the scenario, by the loader's reasons. `request` counts the
    /// scenario's own unloads.
    evictions: BTreeMap<&'static str, u64>,
}

/// What is measured.
#[derive(Clone)]
struct Meters {
    cold_load: Arc<Meter>,
    hit: Arc<Meter>,
    unload: Arc<Meter>,
}

/// The models of a scenario.
#[derive(Debug)]
struct Models {
    names: Vec<String>,
    loaded_before: BTreeSet<String>,
    evictions: BTreeMap<&'static str, u64>,
}

impl Models {
    /// Finds the models that `parameters` select.
    async fn find(parameters: &LazyLoading, run: &Run) -> Result<Self, CannotRun> {
        let failed = |error: AskError| CannotRun(format!("the loader: {error}"));
        let (loader, left) = (&run.handles.loader, run.job.left());
        let rescan = run
            .handles
            .repository
            .ask(Rescan, run.handles.request_deadline);
        // Without a new look, those that are known are known.
        rescan.await.ok();
        let known = loader.ask(Status, left).await.map_err(failed)?;
        let names = match &parameters.models {
            Some(models) => selected(models, &known, run).await?,
            None => {
                let models = known.iter().filter(|resource| resource.kind == MODEL);
                let names = models.map(|model| model.name.clone());
                names.take(MODELS_MAX).collect()
            }
        };
        if names.is_empty() {
            return Err(CannotRun("there is no model to load".into()));
        }
        let is_loaded = |name: &&String| phase(&known, name) == Some(Phase::Ready);
        Ok(Self {
            loaded_before: names.iter().filter(is_loaded).cloned().collect(),
            evictions: evictions(&known),
            names,
        })
    }

    /// The operations of the scenario, for its progress.
    fn operations(&self, parameters: &LazyLoading) -> u64 {
        let rounds = u64::from(parameters.rounds);
        let cold = (self.names.len() - self.loaded_before.len()) as u64;
        let hits = rounds * self.names.len() as u64 * parameters.hits;
        hits + cold * (2 * rounds - 1)
    }
}

pub(super) async fn run(parameters: &LazyLoading, run: &Run) -> Result<Measured, CannotRun> {
    let finding = Models::find(parameters, run);
    let Some(models) = run.stop.run_until_cancelled(finding).await else {
        return Ok(Measured::default());
    };
    let models = models?;
    run.set_operations(models.operations(parameters));
    let Some(_held) = run.reserve_for(3, parameters.callers, CALLER_BYTES).await else {
        return Ok(Measured::default());
    };
    let meters = Meters {
        cold_load: run.meter(),
        hit: run.meter(),
        unload: run.meter(),
    };
    let rounds = Rounds {
        run: run.clone(),
        meters: meters.clone(),
        names: models.names.clone(),
        rounds: parameters.rounds,
        hits: workload(parameters.callers, parameters.hits, Pace::Closed),
        kept: models.loaded_before.clone(),
        own_uses: BTreeMap::new(),
    };
    let kept = on_own_thread(move || rounds.run()).await;
    let kept = kept.map_err(CannotRun)?;
    let after = run.handles.loader.ask(Status, STATUS_WITHIN).await;
    let mut evictions = evictions(&after.unwrap_or_default());
    for (reason, count) in &mut evictions {
        let before = models.evictions.get(reason).copied();
        *count = count.saturating_sub(before.unwrap_or(0));
    }
    evictions.retain(|_, count| *count > 0);
    let thresholds = &parameters.thresholds;
    let operations = [
        ("cold_load", meters.cold_load, &thresholds.cold_load),
        ("hit", meters.hit, &thresholds.hit),
        ("unload", meters.unload, &thresholds.unload),
    ];
    let operations = operations.map(|(name, meter, thresholds)| {
        operation(name, Pace::Closed, meter.figures(), thresholds)
    });
    Ok(Measured {
        operations: operations.into(),
        lazy_loading: Some(Loads {
            left_to_others: kept.difference(&models.loaded_before).cloned().collect(),
            loaded_before: models.loaded_before.into_iter().collect(),
            models: models.names,
            evictions,
        }),
    })
}

/// The rounds of loads, hits and unloads.
struct Rounds {
    run: Run,
    meters: Meters,
    names: Vec<String>,
    rounds: u32,
    hits: Workload,
    /// The models that are not unloaded.
    kept: BTreeSet<String>,
    /// The uses that the loader counts of each model that the scenario has loaded, if nobody else uses it.
    own_uses: BTreeMap<String, u64>,
}

impl Rounds {
    /// Returns the models that were not unloaded between rounds. Ends soon after the scenario must end.
    async fn run(mut self) -> BTreeSet<String> {
        let stop = self.run.stop.clone();
        for round in 1..=self.rounds {
            for name in self.names.clone() {
                // A load or an unload under way is completed by the loader.
                if stop.run_until_cancelled(self.load(&name)).await == Some(true) {
                    self.hit(&name).await;
                }
            }
            // What is loaded last stays, as after any other use.
            if round < self.rounds {
                for name in self.names.clone() {
                    stop.run_until_cancelled(self.unload(&name)).await;
                }
            }
        }
        self.kept
    }

    /// Loads a model, unless it is loaded. Returns whether it is now.
    async fn load(&mut self, name: &str) -> bool {
        let before = self.status(name).await;
        if let Some(status) = &before {
            let is_loaded = status.phase == Phase::Ready;
            let is_wanted = status.phase == Phase::Loading || status.waiters > 0;
            if is_wanted || is_loaded && !self.own_uses.contains_key(name) {
                self.kept.insert(name.to_owned());
            }
            if is_loaded {
                return true;
            }
        }
        let began = Instant::now();
        let lease = lease(&self.run, name, self.run.job.left()).await;
        let took = began.elapsed();
        let is_loaded = lease.is_ok();
        self.meters.cold_load.count(took, lease.map(drop));
        self.meters.cold_load.add_time(took);
        if let Some(before) = before.filter(|_| is_loaded) {
            self.own_uses
                .insert(name.to_owned(), before.counts.uses() + 1);
        }
        is_loaded
    }

    async fn hit(&mut self, name: &str) {
        if let Some(own_uses) = self.own_uses.get_mut(name) {
            *own_uses += self.hits.operations;
        }
        let (run, name): (_, Arc<str>) = (self.run.clone(), name.into());
        let hit = move |_| {
            let (run, name) = (run.clone(), Arc::clone(&name));
            async move { lease(&run, &name, OPERATION_WITHIN).await.map(drop) }
        };
        headroom_measure::run(self.hits, &self.meters.hit, &self.run.stop, hit).await;
    }

    /// Unloads a model that the scenario has loaded, unless others need it.
    async fn unload(&mut self, name: &str) {
        if self.kept.contains(name) {
            return;
        }
        let Some(own_uses) = self.own_uses.remove(name) else {
            // Its load has failed.
            return;
        };
        // The loader decides, so nobody can pin or use it between a look at it and its unload.
        let clear = Clear {
            names: vec![name.to_owned()],
            // Only if it is idle.
            idle_for: Some(Duration::ZERO),
            uses: Some(own_uses),
            keep_pinned: true,
            wait: UNLOAD_WITHIN,
            ..Clear::default()
        };
        let began = Instant::now();
        let cleared = self.run.handles.loader.ask(clear, 2 * UNLOAD_WITHIN).await;
        let took = began.elapsed();
        let unloaded = match cleared {
            Ok(Ok(report)) => match report.resources.iter().find(|it| it.name == name) {
                // It was evicted meanwhile.
                Some(it) if it.reason == Some(KeptReason::NotLoaded) => return,
                Some(it) if it.outcome == ClearOutcome::Kept => {
                    self.kept.insert(name.to_owned());
                    return;
                }
                Some(it) if it.outcome == ClearOutcome::Unloaded => Ok(()),
                _ => {
                    let message = format!("the unload of {name} takes too long");
                    Err(Failure::new("draining", message))
                }
            },
            Ok(Err(error)) => Err(failure(error.into())),
            Err(error) => Err(failure(error.into())),
        };
        self.meters.unload.count(took, unloaded);
        self.meters.unload.add_time(took);
    }

    /// What the loader says of a model.
    async fn status(&self, name: &str) -> Option<ResourceStatus> {
        let known = self.run.handles.loader.ask(Status, OPERATION_WITHIN).await;
        known.ok()?.into_iter().find(|it| it.name == name)
    }
}

/// A lease on the model `name`.
async fn lease(run: &Run, name: &str, within: Duration) -> Result<Lease, Failure> {
    let acquire = Acquire {
        name: name.to_owned(),
    };
    let reply = run.handles.loader.ask(acquire, within).await;
    match reply {
        Ok(Ok(lease)) => Ok(lease),
        Ok(Err(error)) => Err(refused(error)),
        Err(error) => Err(failure(error.into())),
    }
}

fn refused(error: AcquireError) -> Failure {
    failure(error.into())
}

/// Failures count by the kind of problem that a request would have got.
fn failure(problem: Problem) -> Failure {
    Failure::new(problem.kind.slug(), problem.detail)
}

/// The resources of the models that the caller has named.
async fn selected(
    models: &[String],
    known: &[ResourceStatus],
    run: &Run,
) -> Result<Vec<String>, CannotRun> {
    let mut names = Vec::new();
    for model in models {
        let is_known = known.iter().any(|resource| resource.name == *model);
        let name = match is_known {
            true => model.clone(),
            false => resolve(model, &run.handles, run.handles.request_deadline)
                .await
                .map_err(|problem| CannotRun(problem.detail))?,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn phase(known: &[ResourceStatus], name: &str) -> Option<Phase> {
    let found = known.iter().find(|resource| resource.name == name);
    found.map(|resource| resource.phase)
}

/// The drains of all resources, by reason.
fn evictions(known: &[ResourceStatus]) -> BTreeMap<&'static str, u64> {
    let mut sum = BTreeMap::new();
    let counts = known.iter().flat_map(|resource| &resource.counts.evictions);
    for (reason, count) in counts {
        *sum.entry(*reason).or_default() += count;
    }
    sum
}
