//! What a trim returns to the system, and what a leaking model keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use headroom_model_protocol::{HostReply, HostRequest, Start};
use headroom_test_support::torchscript;
use owner::{Host, TensorData, model};

const MIB: u64 = 1 << 20;

/// Trims the host. Returns its bytes before and after.
fn trim(host: &mut Host) -> (u64, u64) {
    host.socket.send(&HostRequest::Trim, &[]);
    match host.reply() {
        HostReply::Trimmed(trimmed) if trimmed.took_us > 0 => (trimmed.before, trimmed.after),
        other => panic!("not trimmed: {other:?}"),
    }
}

fn call(host: &mut Host, times: usize) {
    let x = TensorData::floats(&[1], &[1.]);
    for _ in 0..times {
        host.run(&x);
    }
}

#[test]
fn a_model_that_leaks_keeps_memory_beyond_a_trim() {
    let (_folder, path) = model(|path| torchscript::leaks(path, 64 << 10));
    let (mut host, _) = Host::ready(Start::new("leaks", path));
    call(&mut host, 100);
    let (_, first) = trim(&mut host);
    call(&mut host, 512);
    let (_, second) = trim(&mut host);
    let grown = second - first;
    assert!((32 * MIB..36 * MIB).contains(&grown), "{grown}");
}

#[test]
fn a_model_that_fluctuates_keeps_no_more_than_its_buffer_beyond_a_trim() {
    let (_folder, path) = model(|path| torchscript::fluctuates(path, 4 << 10));
    let (mut host, _) = Host::ready(Start::new("fluctuates", path));
    call(&mut host, 100);
    let (_, first) = trim(&mut host);
    for _ in 0..5 {
        call(&mut host, 101);
        let (before, after) = trim(&mut host);
        assert!(after <= before);
        // Its rolling buffer holds 1.75 MiB at most.
        assert!(after < first + 3 * MIB, "{first:?} {after:?}");
    }
}
