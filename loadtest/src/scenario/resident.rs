//! Resident memory: with nothing loaded, and of each further model beyond its weights.

use std::path::Path;
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{private_dirty, pss, tree_pss};
use headroom_test_support::protocol::infer_path;
use headroom_test_support::torchscript;

use super::{pause, start};
use crate::Result;
use crate::client::{Connection, post};
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

const MIB: f64 = 1024.0 * 1024.0;

/// Servers measured with nothing loaded.
const SERVERS: usize = 5;

/// Models, loaded one after another. The first one counts apart, because it brings shared memory.
const MODELS: usize = 7;

/// The bytes of each model's weights.
const WEIGHTS: u64 = 32 << 20;

/// After a start or a load, how long until memory that only that needed is free.
const SETTLE: Duration = Duration::from_millis(1500);

pub(super) fn measure(binary: &Path) -> Result<()> {
    let idle = (0..SERVERS).map(|_| {
        let server = start(binary, &Models::new(), "");
        pause(SETTLE);
        let pid = server.pid();
        (pss(pid) as f64 / MIB, private_dirty(pid) as f64 / MIB)
    });
    let (idle, own): (Vec<_>, Vec<_>) = idle.unzip();
    let idle = Samples::new(idle).median();
    figure_at_most(12.0, "server, nothing loaded, PSS", idle, "MiB");
    let name = "server, nothing loaded, its own memory (private dirty)";
    figure(name, Samples::new(own).median(), "MiB");
    let (first, further) = hosts(binary, true)?;
    let name = "further host beyond its weights, zygote, PSS";
    figure_at_most(20.0, name, further, "MiB");
    let name = "first host beyond its weights, and the zygote, PSS";
    figure(name, first, "MiB");
    let (_, further) = hosts(binary, false)?;
    let name = "further host beyond its weights, no zygote, PSS";
    figure(name, further, "MiB");
    Ok(())
}

/// The MiB beyond its weights of the first host, and the median of the others.
fn hosts(binary: &Path, zygote: bool) -> Result<(f64, f64)> {
    let models = Models::new();
    let names: Vec<String> = (0..MODELS).map(|index| format!("model-{index}")).collect();
    for name in &names {
        models.add(name, 1, |path| torchscript::weights(path, WEIGHTS));
    }
    let server = start(binary, &models, &format!("models.zygote = {zygote}"));
    let mut connection = Connection::open(server.address())?;
    pause(SETTLE);
    let mut before = tree_pss(server.pid());
    let mut beyond = Vec::with_capacity(MODELS);
    for name in &names {
        let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}"#;
        connection.ask(&post(&infer_path(name), body))?;
        pause(SETTLE);
        let after = tree_pss(server.pid());
        beyond.push((after as f64 - before as f64 - WEIGHTS as f64) / MIB);
        before = after;
    }
    let further = beyond.split_off(1);
    Ok((beyond[0], Samples::new(further).median()))
}
