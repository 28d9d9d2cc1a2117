//! A control group's limit is the budget where the settings name none.

use std::fs;
use std::path::{Path, PathBuf};

use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Watch;
use headroom_test_support::server::Server;
use headroom_test_support::wait::wait_for;

use super::stage::{BINARY, DEADLINE, MIB, Stage, ask, evictions, number};

/// A version 1 memory group below our own, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// None, with the reason printed, where groups cannot be made.
    fn new(name: &str, limit: u64) -> Option<Self> {
        match Self::make(name, limit) {
            Ok(group) => Some(group),
            Err(reason) => {
                println!("skipped: no version 1 memory group can be made: {reason}");
                None
            }
        }
    }

    fn make(name: &str, limit: u64) -> Result<Self, String> {
        let text =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let groups = text("/proc/self/cgroup")?;
        let own = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let group = fields.next()?;
            controllers
                .split(',')
                .any(|it| it == "memory")
                .then_some(group)
        });
        let own = own.ok_or("the memory controller is not one of version 1")?;
        let mount = Path::new("/sys/fs/cgroup/memory");
        let parent = mount.join(own.trim_start_matches('/'));
        let folder = parent.join(format!("headroom-{name}-{}", std::process::id()));
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(failed)?;
        let group = Self(folder.clone());
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).map_err(failed)?;
        Ok(group)
    }

    /// A server that is in the group from its first instruction on.
    fn serve(&self, models: &Models, settings: &str) -> Server {
        let enter = format!(
            "echo $$ > '{}' && exec \"$0\" \"$@\"",
            self.0.join("cgroup.procs").display()
        );
        let options = models.options(BINARY).settings(settings);
        Server::start(options.launched_by(&["sh", "-c", &enter]))
    }

    fn set_limit(&self, limit: u64) {
        fs::write(self.0.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can go once its last process has been waited for.
        wait_for(DEADLINE, || fs::remove_dir(&self.0));
    }
}

async fn budget(server: &Server) -> serde_json::Value {
    server.actor("headroom/memory").await["observed"]["budget"].take()
}

#[tokio::test]
async fn the_groups_limit_is_the_budget_and_its_changes_are_followed() {
    let Some(group) = Group::new("limit", 600 * MIB) else {
        return;
    };
    let models = Models::new();
    let server = group.serve(&models, "memory.sample_interval = '100ms'");
    let told = budget(&server).await;
    assert_eq!(told["bytes"], 600 * MIB, "{told}");
    assert_eq!(told["source"], "cgroup_v1");
    assert!(server.log().contains("source=\"cgroup_v1\""));

    group.set_limit(500 * MIB);
    headroom_test_support::wait::wait_for_async(DEADLINE, || async {
        let told = budget(&server).await;
        if told["bytes"] == 500 * MIB {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    drop(server);
}

#[tokio::test]
async fn a_configured_limit_above_the_groups_changes_nothing_and_one_below_wins() {
    let Some(group) = Group::new("both", 600 * MIB) else {
        return;
    };
    let models = Models::new();
    let server = group.serve(&models, "memory.limit = '1GiB'");
    assert_eq!(budget(&server).await["bytes"], 600 * MIB);
    drop(server);
    let server = group.serve(&models, "memory.limit = '300MiB'");
    let told = budget(&server).await;
    assert_eq!(told["bytes"], 300 * MIB);
    assert_eq!(told["source"], "configured");
    drop(server);
}

#[tokio::test]
async fn models_take_turns_in_a_group_and_the_kernel_never_has_to_step_in() {
    const EACH: u64 = 100;
    let limit = 450 * MIB;
    let Some(group) = Group::new("turns", limit) else {
        return;
    };
    let models = Models::new();
    let names = ["one", "two", "three", "four"];
    for (name, value) in names.iter().zip([1.0, 2.0, 3.0, 4.0]) {
        models.adds(name, EACH, value);
    }
    let server = group.serve(&models, "");
    let watch = Watch::start(server.pid());
    for turn in 0..24_u16 {
        let model = usize::from(turn % 4);
        let answer = ask(&server, names[model], turn).await;
        assert_eq!(number(answer), f64::from(turn) + 1.0 + model as f64);
    }
    assert!(watch.finish().bytes <= limit);
    assert!(evictions(&server, "room").await + evictions(&server, "pressure").await >= 20.0);
    let oom = group.read("memory.oom_control");
    let kills = oom.lines().find_map(|line| line.strip_prefix("oom_kill "));
    assert!(kills.is_none_or(|kills| kills == "0"), "{oom}");
    drop(server);
}
