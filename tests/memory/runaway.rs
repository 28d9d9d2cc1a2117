//! A request that allocates without bound: it is refused its memory, or ended, and nobody else
//! notices.

use std::time::{Duration, Instant};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Watch;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::Script;

use super::stage::{MIB, ModelsExt, ask, host, number};

/// The budget. No control group enforces it: what keeps it is the server alone.
const LIMIT: u64 = 1024 * MIB;

/// What is asked for, in MiB: six times the budget, or more.
const ASKED: u16 = 6000;

/// A model that makes one tensor of as many MiB as its input says, and returns its input.
fn takes_at_once(models: &Models) {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  \
        taken = torch.ones([int(x), 262144])\n  \
        return x + torch.mul(taken[0][0], 0.)\n";
    models.add("runaway", 1, |path| Script::new(code).write(path));
}

/// As many tensors of 4 MiB, which it keeps until it has all of them. Each holds other numbers: what
/// is always the same, the optimiser makes only once.
fn takes_in_pieces(models: &Models) {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  \
        taken = annotate(List[Tensor], [])\n  \
        for _0 in range(int(x)):\n    \
        _1 = torch.append(taken, torch.full([524288], _0))\n  \
        return x + torch.mul(taken[0][0], 0.)\n";
    models.add("runaway", 1, |path| Script::new(code).write(path));
}

/// Asks for too much, and for a little before and after that. Says how high memory rose, and how long
/// the answer took.
async fn run_away(server: &Server) -> (u64, Duration) {
    assert_eq!(number(ask(server, "runaway", 1).await), 1.0);
    let watch = Watch::start(server.pid());
    let begun = Instant::now();
    let answer = ask(server, "runaway", ASKED).await;
    let took = begun.elapsed();
    let peak = watch.finish();
    println!(
        "answered {} in {took:?}, at most {} of {} MiB",
        answer.status,
        peak.bytes / MIB,
        LIMIT / MIB,
    );
    let error = answer.error(507);
    assert!(error.contains("memory"), "{error}");
    assert_eq!(number(ask(server, "runaway", 2).await), 2.0);
    (peak.bytes, took)
}

#[tokio::test]
async fn one_tensor_far_above_the_budget_is_refused_and_the_model_goes_on() {
    let models = Models::new();
    takes_at_once(&models);
    models.adds("other", 8, 2.0);
    let server = models.serve_within(LIMIT, "");
    assert_eq!(number(ask(&server, "other", 1).await), 3.0);
    assert_eq!(number(ask(&server, "runaway", 1).await), 1.0);
    let pid = |name| host(&server, name).unwrap().pid;
    let before = (pid("runaway"), pid("other"));
    let (peak, took) = run_away(&server).await;
    assert!(peak < LIMIT, "{peak} of {LIMIT}");
    // Nothing of it was ever made.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!((pid("runaway"), pid("other")), before);
}

#[tokio::test]
async fn many_tensors_that_pass_the_budget_together_are_refused_and_the_model_goes_on() {
    // By itself or, where it was seen to grow and was sent away meanwhile, with a new process.
    let models = Models::new();
    takes_in_pieces(&models);
    let server = models.serve_within(LIMIT, "");
    let (peak, _) = run_away(&server).await;
    assert!(peak < LIMIT, "{peak} of {LIMIT}");
}

#[tokio::test]
async fn a_request_is_not_refused_for_what_the_one_before_it_held() {
    // Each takes more than half of what there is, for long enough to be seen by a reading.
    let models = Models::new();
    takes_at_once(&models);
    let server = models.serve_within(LIMIT, "");
    assert_eq!(number(ask(&server, "runaway", 1).await), 1.0);
    let requests = (0..8).map(|_| ask(&server, "runaway", 450));
    for answer in futures_util::future::join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(number(answer), 450.0);
    }
}
