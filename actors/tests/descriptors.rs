//! Without a single free descriptor memory is still read. Alone in its program: the limit is that of a
//! whole process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::time::Duration;

use headroom_actors::kernel::SupervisorSpec;
use headroom_actors::kernel::testing::TestSystem;
use headroom_actors::memory::{Memory, MemoryConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};

#[test]
fn memory_is_read_when_others_have_taken_every_descriptor() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64.min(hard), hard).unwrap();
    TestSystem::real_time(|system| async move {
        let config = MemoryConfig {
            sample_interval: Duration::from_millis(50),
            ..MemoryConfig::default()
        };
        let memory = Memory::new(config).unwrap();
        let spec = SupervisorSpec::new("headroom").child(memory.child());
        let root = system.start(spec).await;
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        assert!(!taken.is_empty() && taken.len() < 64);
        let freshness = memory.freshness();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let age = freshness.age().unwrap();
            assert!(age < Duration::from_secs(1), "memory was read {age:?} ago");
            sleep(Duration::from_millis(20)).await;
        }
        drop(taken);
        root.stop().await;
    });
}
