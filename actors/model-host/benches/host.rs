//! The costs of a host: `cargo bench -p headroom-model-host`. Prints one line per figure.
//!
//! Not a criterion bench: each figure is about whole processes, of which a few dozen are enough.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]
#![allow(missing_docs)]

#[allow(dead_code)] // The tests use another part.
#[path = "../tests/owner/mod.rs"]
mod owner;

use std::{fs, time::Instant};

use headroom_model_protocol::*;
use headroom_test_support::torchscript;
use owner::*;

const STARTS: usize = 15;
const CALLS: usize = 3000;
const SANDBOX_ROUNDS: usize = 60;
const SANDBOX_CALLS: usize = 100;

fn main() {
    let zygotes: Vec<f64> = (0..STARTS)
        .map(|_| milliseconds(|| drop(Zygote::spawn())))
        .collect();
    report("zygote: exec to ready", "ms", zygotes);

    let mut zygote = Zygote::spawn();
    for optimize in [false, true] {
        let start = Start {
            optimize,
            ..sample_start()
        };
        let name = if optimize {
            "optimised"
        } else {
            "not optimised"
        };
        starts(&mut zygote, &start, name);
        calls(&mut zygote, &start, name);
    }
    sandbox(&mut zygote);
    memory(&mut zygote);
    large_tensors(&mut zygote);
}

fn starts(zygote: &mut Zygote, start: &Start, name: &str) {
    for (warm_up, to) in [(false, "loaded"), (true, "warm")] {
        let (mut fork, mut all) = (vec![], vec![]);
        for _ in 0..STARTS {
            let begun = Instant::now();
            let (mut host, _, _log) = zygote.fork();
            fork.push(begun.elapsed().as_secs_f64() * 1e3);
            ready(
                &mut host,
                Start {
                    warm_up,
                    ..start.clone()
                },
            );
            all.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        report("fork", "ms", fork);
        report(&format!("silero-vad, {name}: fork to {to}"), "ms", all);
    }
}

fn calls(zygote: &mut Zygote, start: &Start, name: &str) {
    let (mut host, _, _log) = zygote.fork();
    ready(&mut host, start.clone());
    let x = TensorData::floats(&[1, 512], &chunk(0));
    let arguments = [Arg::Tensor(&x), Arg::Scalar(Scalar::Int(16_000))];
    let (mut forward, mut round_trip) = (vec![], vec![]);
    for _ in 0..CALLS {
        let begun = Instant::now();
        host.send_infer(&arguments, &[], false);
        let Some(Frame {
            header: HostReply::Output { forward_us, .. },
            ..
        }) = host.socket.receive()
        else {
            panic!("no output")
        };
        round_trip.push(begun.elapsed().as_secs_f64() * 1e6);
        forward.push(forward_us as f64);
    }
    let pings = (0..300).map(|_| {
        let begun = Instant::now();
        host.socket.send(&HostRequest::Ping, &[]);
        host.reply();
        begun.elapsed().as_secs_f64() * 1e6
    });
    report("ping, memory measured", "us", pings.collect());
    report(&format!("silero-vad, {name}: bare forward"), "us", forward);
    report(
        &format!("silero-vad, {name}: round trip over the socket"),
        "us",
        round_trip,
    );
}

/// What the sandbox costs. With and without take turns, so that both meet the same load of the machine.
fn sandbox(zygote: &mut Zygote) {
    let modes = [SandboxMode::Off, SandboxMode::Required];
    let mut loads = [vec![], vec![]];
    let mut round_trips = [vec![], vec![]];
    let x = TensorData::floats(&[1, 512], &chunk(0));
    let arguments = [Arg::Tensor(&x), Arg::Scalar(Scalar::Int(16_000))];
    for _ in 0..SANDBOX_ROUNDS {
        for (at, &sandbox) in modes.iter().enumerate() {
            let begun = Instant::now();
            let (mut host, _, _log) = zygote.fork();
            let start = Start {
                sandbox,
                ..sample_start()
            };
            ready(&mut host, start);
            loads[at].push(begun.elapsed().as_secs_f64() * 1e3);
            for _ in 0..SANDBOX_CALLS {
                let begun = Instant::now();
                host.infer(&arguments).unwrap();
                round_trips[at].push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    for ((mode, load), round_trip) in modes.iter().zip(loads).zip(round_trips) {
        let name = format!("models.sandbox = \"{}\"", mode.label());
        report(&format!("{name}: fork to warm"), "ms", load);
        report(&format!("{name}: round trip"), "us", round_trip);
    }
}

fn memory(zygote: &mut Zygote) {
    let mut hosts = Vec::new();
    let mut further = Vec::new();
    let mut dirty = Vec::new();
    let mut pids = vec![zygote.pid];
    let weights = check(&sample_file()).1["parameter_bytes"].as_u64().unwrap();
    for _ in 0..6 {
        let before: u64 = pids.iter().map(|&pid| rollup(pid, "Pss:")).sum();
        let (mut host, pid, log) = zygote.fork();
        ready(&mut host, sample_start());
        host.speech_probability(&chunk(0), false);
        pids.push(pid);
        hosts.push((host, log));
        let after: u64 = pids.iter().map(|&pid| rollup(pid, "Pss:")).sum();
        further.push(mib(after.saturating_sub(before + weights)));
        dirty.push(mib(rollup(pid, "Private_Dirty:").saturating_sub(weights)));
    }
    println!(
        "{:<48} {:>9.1} MiB",
        "zygote: PSS beside six hosts",
        mib(rollup(zygote.pid, "Pss:"))
    );
    println!("{:<48} {:>9.1} MiB", "silero-vad: weights", mib(weights));
    report(
        "one further host beyond its weights: PSS",
        "MiB",
        further.split_off(1),
    );
    report(
        "one further host beyond its weights: dirty",
        "MiB",
        dirty.split_off(1),
    );
}

fn large_tensors(zygote: &mut Zygote) {
    let (_folder, path) = model(torchscript::echo);
    let (mut host, _, _log) = zygote.fork();
    ready(&mut host, Start::new("echo", path));
    for megabytes in [1, 16, 64] {
        let len = megabytes << 20;
        let data = TensorData::new(Datatype::Uint8, &[len], vec![7; len as usize]);
        let times = (0..20)
            .map(|_| milliseconds(|| drop(host.run(&data))))
            .collect();
        report(&format!("{megabytes} MiB to a host and back"), "ms", times);
    }
}

fn ready(host: &mut Host, start: Start) -> LoadedModel {
    match host.start(start) {
        HostReply::Ready(ready) => ready,
        reply => panic!("not ready: {reply:?}"),
    }
}

/// A figure of a process's memory in bytes, from `/proc/<pid>/smaps_rollup`.
fn rollup(pid: i32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e3
}

fn report(what: &str, unit: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let (median, high) = (
        figures[figures.len() / 2],
        figures[figures.len() * 99 / 100],
    );
    println!("{what:<48} {median:>9.1} {unit:<4} p99 {high:>9.1}");
}
