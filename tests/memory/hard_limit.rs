//! Many more models than fit, under a limit that the kernel enforces.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use headroom_test_support::cgroup::Group;
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::protocol::{floats, infer_path};
use headroom_test_support::server::Server;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::setup::{AddModels, BINARY, MIB, loads};

const LIMIT: u64 = 768 * MIB;

/// Weights of the models, in MiB: 1,560 in all. The most popular model is neither the largest nor the smallest.
const WEIGHTS: [u64; 12] = [110, 60, 200, 80, 150, 100, 190, 70, 120, 180, 130, 170];

const CLIENTS: u64 = 32;

const DURATION: Duration = Duration::from_secs(120);

/// Pause after a refusal. It is shorter than Retry-After, so that the load stays high.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Outcome {
    answered: u64,
    refused: u64,
    wrong: Vec<String>,
}

#[tokio::test]
async fn twelve_models_share_a_hard_limit_that_holds_four_and_the_kernel_kills_no_process() {
    let Some(group) = Group::new("hard-limit", LIMIT) else {
        return;
    };
    let models = Models::new();
    for (index, mib) in WEIGHTS.into_iter().enumerate() {
        models.add_adder(&name(index), mib, index as f32);
        drop_from_page_cache(&models, index);
    }
    let server = group.start_server(models.options(BINARY));
    let group = Arc::new(group);
    let group_sampler = GroupSampler::start(&group);
    let sampler = PeakSampler::start(server.pid());

    let ends = Instant::now() + DURATION;
    let clients = (0..CLIENTS).map(|client| run_client(&server, client, ends));
    let outcomes = join_all(clients).await;

    let peak = sampler.finish();
    let samples = group_sampler.finish();
    let answered: u64 = outcomes.iter().map(|it| it.answered).sum();
    let refused: u64 = outcomes.iter().map(|it| it.refused).sum();
    let wrong: Vec<_> = outcomes.into_iter().flat_map(|it| it.wrong).collect();
    let loads = loads(&server).await;
    let stats = server.memory_stats().await;
    let mut event_counts: BTreeMap<String, u64> = BTreeMap::new();
    for event in stats["events"].as_array().unwrap() {
        let to = event["to"].as_str().map(|to| format!(" to {to}"));
        let kind = event["event"].as_str().unwrap();
        *event_counts
            .entry(format!("{kind}{}", to.unwrap_or_default()))
            .or_default() += 1;
    }
    println!(
        "{answered} answered, {refused} refused, {} wrong, {loads} loads",
        wrong.len()
    );
    println!(
        "of {} MiB: {} at most by proportional shares, {} not reclaimable at most, {} with page \
         cache, in {} and {} samples",
        LIMIT / MIB,
        peak.bytes / MIB,
        samples.unreclaimable / MIB,
        samples.usage / MIB,
        peak.samples,
        samples.count,
    );
    println!(
        "limit reached {} times, {} kills; {event_counts:?}",
        group.limit_hits(),
        group.kills()
    );

    assert_eq!(wrong, [""; 0]);
    assert_eq!(group.kills(), 0, "the kernel killed a process");
    // The kernel charges a batch of pages for each processor before it compares with the limit. A sample may include a
    // batch that is refused afterwards.
    assert!(samples.usage <= LIMIT + MIB, "{}", samples.usage);
    assert!(peak.bytes <= LIMIT);
    assert!(samples.count > 1000 && peak.samples > 1000);
    // Page cache may fill the group up to its limit. Memory that cannot be reclaimed stays below it.
    assert!(
        samples.unreclaimable < LIMIT * 97 / 100,
        "{}",
        samples.unreclaimable
    );
    assert!(answered > 1000, "{answered}");
    assert!(refused < answered / 2, "{refused} of {answered}");
    assert!(
        loads > 30.0,
        "too few loads for a test of evictions: {loads}"
    );
    let deaths = server.metric("headroom_lazy_deaths_total", &[]).await;
    assert_eq!(deaths, 0.0, "a model's process ended unexpectedly");
    drop(server);
}

fn name(index: usize) -> String {
    format!("model-{index}")
}

/// Drops a model's file from the page cache, so that its next reader is charged for its pages.
fn drop_from_page_cache(models: &Models, index: usize) {
    let file = File::open(models.version(&name(index), 1).join("model.pt")).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

async fn run_client(server: &Server, seed: u64, ends: Instant) -> Outcome {
    let mut random = SmallRng::seed_from_u64(seed);
    let weights = (1..=WEIGHTS.len()).map(|rank| 1.0 / rank as f64);
    let zipf = WeightedIndex::new(weights).unwrap();
    let mut outcome = Outcome::default();
    while Instant::now() < ends {
        let model = zipf.sample(&mut random);
        let x: u16 = random.random_range(0..1000);
        let request = floats("x", &[f32::from(x)]);
        let response = server.post(&infer_path(&name(model)), &request).await;
        let status = response.status().as_u16();
        let has_retry_after = response.headers().contains_key("retry-after");
        let text = response.text().await.unwrap();
        match status {
            200 => {
                let json: Value = serde_json::from_str(&text).unwrap();
                let expected = f64::from(x) + model as f64;
                if json["outputs"][0]["data"][0] == expected {
                    outcome.answered += 1;
                } else {
                    outcome.wrong.push(text);
                }
            }
            503 if has_retry_after => {
                outcome.refused += 1;
                tokio::time::sleep(PAUSE).await;
            }
            _ => outcome.wrong.push(format!("{status} {text}")),
        }
    }
    outcome
}

/// Samples the kernel's figures of the group every 20 ms.
struct GroupSampler {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<GroupPeak>,
}

#[derive(Default)]
struct GroupPeak {
    /// Usage with page cache, in bytes.
    usage: u64,
    /// Usage without file pages, which the kernel can reclaim, in bytes.
    unreclaimable: u64,
    /// Number of samples.
    count: u64,
}

impl GroupSampler {
    fn start(group: &Arc<Group>) -> Self {
        let (ends, group) = (Arc::new(AtomicBool::new(false)), Arc::clone(group));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut highest = GroupPeak::default();
            while !ended.load(Ordering::Relaxed) {
                let usage = group.usage();
                let files = group.stat("inactive_file") + group.stat("active_file");
                highest.usage = highest.usage.max(usage);
                highest.unreclaimable = highest.unreclaimable.max(usage.saturating_sub(files));
                highest.count += 1;
                std::thread::park_timeout(Duration::from_millis(20));
            }
            highest
        });
        Self { ends, thread }
    }

    fn finish(self) -> GroupPeak {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
