//! Resident memory: with nothing loaded, and of each further model beyond its weights.

use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::{pss, tree_pss};
use headroom_test_support::torchscript;

use super::pause;
use crate::Error;
use crate::client::{Connection, Request};
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::Binaries;

const MIB: f64 = 1024.0 * 1024.0;

/// Servers measured with nothing loaded.
const SERVERS: usize = 5;

/// Models, loaded one after another. The first one counts apart, because it brings shared memory.
const MODELS: usize = 7;

/// The bytes of each model's weights.
const WEIGHTS: u64 = 32 << 20;

/// After a start or a load, how long until memory that only that needed is free.
const SETTLE: Duration = Duration::from_millis(1500);

pub(crate) fn resident(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let idle = (0..SERVERS).map(|_| {
        let server = binaries.start(&Models::new(), "");
        pause(SETTLE);
        pss(server.pid()) as f64 / MIB
    });
    let idle = Samples::new(idle.collect()).median();
    let mut figures = vec![Figure::new("server, nothing loaded, PSS", idle, "MiB").at_most(12.0)];
    let zygote = hosts(binaries, true)?;
    figures.push(
        Figure::new(
            "further host beyond its weights, zygote, PSS",
            zygote.further,
            "MiB",
        )
        .at_most(20.0),
    );
    let name = "first host beyond its weights, and the zygote, PSS";
    figures.push(Figure::new(name, zygote.first, "MiB"));
    let alone = hosts(binaries, false)?;
    let name = "further host beyond its weights, no zygote, PSS";
    figures.push(Figure::new(name, alone.further, "MiB"));
    Ok(figures)
}

struct Hosts {
    first: f64,
    further: f64,
}

fn hosts(binaries: &Binaries, zygote: bool) -> Result<Hosts, Error> {
    let models = Models::new();
    let names: Vec<String> = (0..MODELS).map(|index| format!("model-{index}")).collect();
    for name in &names {
        models.add(name, 1, |path| torchscript::weights(path, WEIGHTS));
    }
    let server = binaries.start(&models, &format!("models.zygote = {zygote}"));
    let mut connection = Connection::open(server.address())?;
    pause(SETTLE);
    let mut before = tree_pss(server.pid());
    let mut beyond = Vec::with_capacity(MODELS);
    for name in &names {
        let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}"#;
        let request = Request::post(&format!("/v2/models/{name}/infer"), body);
        connection.ask(&request)?;
        pause(SETTLE);
        let after = tree_pss(server.pid());
        beyond.push((after as f64 - before as f64 - WEIGHTS as f64) / MIB);
        before = after;
    }
    let further = beyond.split_off(1);
    Ok(Hosts {
        first: beyond.first().copied().unwrap_or(f64::NAN),
        further: Samples::new(further).median(),
    })
}
