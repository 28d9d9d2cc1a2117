//! What goes leaves nothing behind: no process, no memory, no descriptor.

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{Process, private_dirty, tree, tree_private};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;

use super::stage::{
    MIB, ModelsExt, ask, evictions, host, loads, number, processes, wait_for_processes,
};

#[tokio::test]
async fn what_is_not_used_goes_and_comes_back_when_asked_for() {
    let models = Models::new();
    models
        .adds("brief", 100, 1.0)
        .settings("brief", 1, "ttl = '1s'")
        .adds("longer", 8, 2.0)
        .settings("longer", 1, "ttl = '4s'");
    // The zygote's time is that of the room.
    let server = models.serve("models.ttl = '2s'");
    let empty = tree_private(server.pid());
    assert_eq!(processes(&server), [""; 0]);

    assert_eq!(number(ask(&server, "longer", 1).await), 3.0);
    assert_eq!(number(ask(&server, "brief", 1).await), 2.0);
    assert_eq!(processes(&server), ["hr-zygote", "hr:brief", "hr:longer"]);
    let full = tree_private(server.pid());
    assert!(full > empty + 108 * MIB);

    wait_for_processes(&server, &["hr-zygote", "hr:longer"]);
    let without_brief = tree_private(server.pid());
    assert!(without_brief + 100 * MIB < full, "{full} {without_brief}");
    wait_for_processes(&server, &["hr-zygote"]);
    // Nothing needs it any more.
    wait_for_processes(&server, &[]);
    let after = tree_private(server.pid());
    assert!(after < empty + 4 * MIB, "{empty} {after}");
    assert_eq!(evictions(&server, "ttl").await, 2.0);

    assert_eq!(number(ask(&server, "brief", 7).await), 8.0);
    assert_eq!(processes(&server), ["hr-zygote", "hr:brief"]);
    assert_eq!(loads(&server).await, 3.0);
}

#[tokio::test]
async fn use_puts_off_the_end_of_a_models_time() {
    let models = Models::new();
    models
        .works("kept", 1, 1.0)
        .settings("kept", 1, "ttl = '1s'");
    let server = models.serve("");
    ask(&server, "kept", 0).await.ok();
    let process = host(&server, "kept").unwrap().pid;
    // Each lasts for most of its time, and the last for longer.
    for milliseconds in [700, 700, 700, 2500] {
        let answer = ask(&server, "kept", milliseconds).await;
        assert_eq!(number(answer), f64::from(milliseconds) + 1.0);
        assert_eq!(host(&server, "kept").unwrap().pid, process);
    }
    wait_for_processes(&server, &["hr-zygote"]);
}

/// What must not grow, of the server, of the zygote, and of all together.
#[derive(Debug)]
struct Holdings {
    /// Private pages: proportional shares of libtorch change with whoever else has it mapped.
    private: u64,
    server_private: u64,
    descriptors: usize,
    threads: usize,
}

impl Holdings {
    /// While no host is there.
    fn of(server: &Server) -> Self {
        wait_for_processes(server, &["hr-zygote"]);
        let tree = tree(server.pid());
        assert!(tree.iter().all(|process| !process.is_zombie), "{tree:?}");
        Self {
            private: tree.iter().map(|process| private_dirty(process.pid)).sum(),
            server_private: private_dirty(server.pid()),
            descriptors: tree.iter().map(Process::descriptors).sum(),
            threads: tree.iter().map(Process::threads).sum(),
        }
    }
}

fn median(of: &[Holdings], figure: impl Fn(&Holdings) -> u64) -> u64 {
    let mut figures: Vec<u64> = of.iter().map(figure).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

#[tokio::test]
async fn two_hundred_loads_and_unloads_leave_nothing_behind() {
    /// Medians of the second and the last quarter may differ by this much, over 125 loads.
    const LEVEL: u64 = 2 * MIB;
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = models.serve("");
    let mut seen = Vec::new();
    for round in 0..200_u16 {
        server.repository("affine", "load").await.ok();
        let answer = ask(&server, "affine", round).await;
        assert_eq!(number(answer), f64::from(round) * 3.0 + 0.5);
        server.repository("affine", "unload").await.ok();
        seen.push(Holdings::of(&server));
    }
    let (second, last) = (&seen[50..100], &seen[150..]);
    for (what, figure) in [
        ("the tree", (|it| it.private) as fn(&Holdings) -> u64),
        ("the server", |it| it.server_private),
    ] {
        let (before, after) = (median(second, figure), median(last, figure));
        println!("{what}: {} KiB, then {} KiB", before / 1024, after / 1024);
        assert!(after < before + LEVEL, "{what}: {before} then {after}");
    }
    // Not one each in fifty loads; a connection or a file read in that moment may be open.
    for (what, figure) in [
        (
            "descriptors",
            (|it| it.descriptors) as fn(&Holdings) -> usize,
        ),
        ("threads", |it| it.threads),
    ] {
        let most = |of: &[Holdings]| of.iter().map(figure).max().unwrap();
        let (before, after) = (most(second), most(last));
        println!("{what}: {before}, then {after}");
        assert!(after <= before + 5, "{what}: {before} then {after}");
    }
    assert_eq!(loads(&server).await, 200.0);
    assert_eq!(evictions(&server, "request").await, 200.0);
}
