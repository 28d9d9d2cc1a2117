//! What a host gives back, and what a model that leaks keeps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use headroom_model_protocol::{HostReply, HostRequest, Start};
use headroom_test_support::torchscript;
use owner::{Data, Host, model};

const MIB: u64 = 1 << 20;

/// What a trim says: bytes before and after.
fn trim(host: &mut Host) -> (u64, u64) {
    host.line.send(&HostRequest::Trim { id: 7 }, &[]);
    match host.reply() {
        HostReply::Trimmed {
            id: 7,
            before,
            after,
            took_us: 1..,
        } => (before, after),
        other => panic!("not trimmed: {other:?}"),
    }
}

fn call(host: &mut Host, times: usize) {
    let x = Data::floats(&[1], &[1.]);
    for _ in 0..times {
        host.run(&x);
    }
}

#[test]
fn a_model_that_leaks_keeps_what_a_trim_does_not_give_back() {
    let (_folder, path) = model(|path| torchscript::leaks(path, 64 << 10));
    let (mut host, _) = Host::ready(Start::new("leaks", "1", path));
    call(&mut host, 100);
    let (_, first) = trim(&mut host);
    call(&mut host, 512);
    let (_, second) = trim(&mut host);
    let grown = second - first;
    assert!((32 * MIB..36 * MIB).contains(&grown), "{grown}");
}

#[test]
fn a_model_that_wobbles_keeps_no_more_than_its_buffer_beyond_a_trim() {
    let (_folder, path) = model(|path| torchscript::fluctuates(path, 4 << 10));
    let (mut host, _) = Host::ready(Start::new("wobbles", "1", path));
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
