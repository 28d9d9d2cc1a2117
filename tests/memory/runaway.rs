//! A request that allocates without bound is refused the memory, or its process is ended. Others are not disturbed.

use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::Script;

use super::setup::{AddModels, MIB, ask};

/// The budget, in bytes. No control group enforces it, only the server.
const LIMIT: u64 = 1024 * MIB;

/// What a request allocates, in MiB: almost six times the budget.
const ALLOCATED: u16 = 6000;

/// Adds a model that makes one tensor of as many MiB as its input says, and returns its input.
fn add_single_allocator(models: &Models) {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  \
        taken = torch.ones([int(x), 262144])\n  \
        return x + torch.mul(taken[0][0], 0.)\n";
    models.add("runaway", 1, |path| Script::new(code).write(path));
}

/// Adds a model that makes as many tensors of 4 MiB as its input says, keeps them until the end of the call, and
/// returns its input. The tensors differ: the optimiser would make a constant tensor only once.
fn add_piecewise_allocator(models: &Models) {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  \
        taken = annotate(List[Tensor], [])\n  \
        for _0 in range(int(x)):\n    \
        _1 = torch.append(taken, torch.full([524288], _0))\n  \
        return x + torch.mul(taken[0][0], 0.)\n";
    models.add("runaway", 1, |path| Script::new(code).write(path));
}

/// Sends a request that allocates too much, between two that do not. Returns the peak of memory in bytes, and the time
/// to the refusal.
async fn allocate_too_much(server: &Server) -> (u64, Duration) {
    assert_eq!(ask(server, "runaway", 1).await.number(), 1.0);
    let sampler = PeakSampler::start(server.pid());
    let begun = Instant::now();
    let answer = ask(server, "runaway", ALLOCATED).await;
    let took = begun.elapsed();
    let peak = sampler.finish();
    println!(
        "answered {} in {took:?}, at most {} of {} MiB",
        answer.status,
        peak.bytes / MIB,
        LIMIT / MIB,
    );
    let error = answer.error(507);
    assert!(error.contains("memory"), "{error}");
    assert_eq!(ask(server, "runaway", 2).await.number(), 2.0);
    (peak.bytes, took)
}

#[tokio::test]
async fn one_tensor_far_above_the_budget_is_refused_and_the_process_stays() {
    let models = Models::new();
    add_single_allocator(&models);
    models.add_adder("other", 8, 2.0);
    let server = models.start_server_with_limit(LIMIT, "");
    assert_eq!(ask(&server, "other", 1).await.number(), 3.0);
    assert_eq!(ask(&server, "runaway", 1).await.number(), 1.0);
    let pid = |name| server.host(name).unwrap().pid;
    let before = (pid("runaway"), pid("other"));
    let (peak, took) = allocate_too_much(&server).await;
    assert!(peak < LIMIT, "{peak} of {LIMIT}");
    // The tensor was refused as a whole: filling it would take longer.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!((pid("runaway"), pid("other")), before);
}

#[tokio::test]
async fn many_tensors_that_exceed_the_budget_together_are_refused_and_the_model_answers_again() {
    // The process may have been replaced: a reading during its growth can end it.
    let models = Models::new();
    add_piecewise_allocator(&models);
    let server = models.start_server_with_limit(LIMIT, "");
    let (peak, _) = allocate_too_much(&server).await;
    assert!(peak < LIMIT, "{peak} of {LIMIT}");
}

#[tokio::test]
async fn a_request_is_not_refused_for_memory_that_the_previous_one_has_freed() {
    // Each request allocates more than half of the free memory, long enough for a reading to count it.
    let models = Models::new();
    add_single_allocator(&models);
    let server = models.start_server_with_limit(LIMIT, "");
    assert_eq!(ask(&server, "runaway", 1).await.number(), 1.0);
    let requests = (0..8).map(|_| ask(&server, "runaway", 450));
    for answer in futures_util::future::join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(answer.number(), 450.0);
    }
}
