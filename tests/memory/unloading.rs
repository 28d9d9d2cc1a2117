//! Unloading leaves nothing behind: no process, no memory, no descriptor.

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, private_dirty, tree, tree_private};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;

use super::setup::{AddModels, MIB, ask, evictions, loads, processes, wait_for_processes};

#[tokio::test]
async fn an_unused_model_is_unloaded_after_its_ttl_and_loaded_by_the_next_request() {
    let models = Models::new();
    models
        .add_adder("brief", 100, 1.0)
        .settings("brief", 1, "ttl = '1s'")
        .add_adder("longer", 8, 2.0)
        .settings("longer", 1, "ttl = '4s'");
    // The zygote has the TTL of the section.
    let server = models.start_server("models.ttl = '2s'");
    let empty = tree_private(server.pid());
    assert_eq!(processes(&server), [""; 0]);

    assert_eq!(ask(&server, "longer", 1).await.number(), 3.0);
    assert_eq!(ask(&server, "brief", 1).await.number(), 2.0);
    assert_eq!(processes(&server), ["hr-zygote", "hr:brief", "hr:longer"]);
    let full = tree_private(server.pid());
    assert!(full > empty + 108 * MIB);

    wait_for_processes(&server, &["hr-zygote", "hr:longer"]);
    let without_brief = tree_private(server.pid());
    assert!(without_brief + 100 * MIB < full, "{full} {without_brief}");
    wait_for_processes(&server, &["hr-zygote"]);
    // No model needs the zygote any more.
    wait_for_processes(&server, &[]);
    let after = tree_private(server.pid());
    assert!(after < empty + 4 * MIB, "{empty} {after}");
    assert_eq!(evictions(&server, "ttl").await, 2.0);

    assert_eq!(ask(&server, "brief", 7).await.number(), 8.0);
    assert_eq!(processes(&server), ["hr-zygote", "hr:brief"]);
    assert_eq!(loads(&server).await, 3.0);
}

#[tokio::test]
async fn use_restarts_the_ttl_of_a_model() {
    let models = Models::new();
    models
        .add_slow_adder("kept", 1, 1.0)
        .settings("kept", 1, "ttl = '1s'");
    let server = models.start_server("");
    ask(&server, "kept", 0).await.ok();
    let process = server.host("kept").unwrap().pid;
    // Each request lasts for most of the TTL, the last one for longer.
    for milliseconds in [700, 700, 700, 2500] {
        let answer = ask(&server, "kept", milliseconds).await;
        assert_eq!(answer.number(), f64::from(milliseconds) + 1.0);
        assert_eq!(server.host("kept").unwrap().pid, process);
    }
    wait_for_processes(&server, &["hr-zygote"]);
}

/// Figures of the server and the zygote that must not grow.
#[derive(Debug)]
struct ResourceUsage {
    /// Private pages of both, in bytes. Proportional shares would change with other processes that map libtorch.
    private: u64,
    /// Private pages of the server, in bytes.
    server_private: u64,
    descriptors: usize,
    threads: usize,
}

impl ResourceUsage {
    /// Measures while no host runs.
    fn measure(server: &Server) -> Self {
        wait_for_processes(server, &["hr-zygote"]);
        let tree = tree(server.pid());
        assert!(tree.iter().all(|process| !process.is_zombie()), "{tree:?}");
        Self {
            private: tree.iter().map(|process| private_dirty(process.pid)).sum(),
            server_private: private_dirty(server.pid()),
            descriptors: tree.iter().map(Process::descriptors).sum(),
            threads: tree.iter().map(Process::threads).sum(),
        }
    }
}

fn median(of: &[ResourceUsage], figure: impl Fn(&ResourceUsage) -> u64) -> u64 {
    let mut figures: Vec<u64> = of.iter().map(figure).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

#[tokio::test]
async fn two_hundred_loads_and_unloads_leave_nothing_behind() {
    /// Largest difference between the medians of the second and the last quarter of the rounds, in bytes.
    const TOLERANCE: u64 = 2 * MIB;
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = models.start_server("");
    let mut rounds = Vec::new();
    for round in 0..200_u16 {
        server.load("affine").await.ok();
        let answer = ask(&server, "affine", round).await;
        assert_eq!(answer.number(), f64::from(round) * 3.0 + 0.5);
        server.unload("affine").await.ok();
        rounds.push(ResourceUsage::measure(&server));
    }
    let (second, last) = (&rounds[50..100], &rounds[150..]);
    for (what, figure) in [
        ("the tree", (|it| it.private) as fn(&ResourceUsage) -> u64),
        ("the server", |it| it.server_private),
    ] {
        let (before, after) = (median(second, figure), median(last, figure));
        println!("{what}: {} KiB, then {} KiB", before / 1024, after / 1024);
        assert!(after < before + TOLERANCE, "{what}: {before}, then {after}");
    }
    // Fewer than one per load: a connection or a file may be open at the moment of a measurement.
    for (what, figure) in [
        (
            "descriptors",
            (|it| it.descriptors) as fn(&ResourceUsage) -> usize,
        ),
        ("threads", |it| it.threads),
    ] {
        let most = |of: &[ResourceUsage]| of.iter().map(figure).max().unwrap();
        let (before, after) = (most(second), most(last));
        println!("{what}: {before}, then {after}");
        assert!(after <= before + 5, "{what}: {before}, then {after}");
    }
    assert_eq!(loads(&server).await, 200.0);
    assert_eq!(evictions(&server, "request").await, 200.0);
}
