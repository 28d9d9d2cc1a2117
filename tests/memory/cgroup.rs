//! The limit of the server's control group is the budget where the settings set none.

use headroom_test_support::cgroup::{Group, Version};
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::PeakSampler;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use super::setup::{AddModels, BINARY, MIB, ask, evictions, wait_until_served};

fn start(group: &Group, models: &Models, settings: &str) -> Server {
    group.start_server(models.options(BINARY).settings(settings))
}

fn source(group: &Group) -> &'static str {
    match group.version() {
        Version::V1 => "cgroup_v1",
        Version::V2 => "cgroup_v2",
    }
}

async fn reported_budget(server: &Server) -> serde_json::Value {
    server.actor("headroom/memory").await["observed"]["budget"].take()
}

#[tokio::test]
async fn the_limit_of_the_group_is_the_budget_and_changes_of_it_are_applied() {
    let Some(group) = Group::new("limit", 600 * MIB) else {
        return;
    };
    let models = Models::new();
    let server = start(&group, &models, "memory.sample_interval = '100ms'");
    let budget = reported_budget(&server).await;
    assert_eq!(budget["bytes"], 600 * MIB, "{budget}");
    assert_eq!(budget["source"], source(&group));
    let logged = format!("source=\"{}\"", source(&group));
    assert!(server.log().contains(&logged));

    group.set_limit(500 * MIB);
    wait_for_async(DEADLINE, || async {
        let budget = reported_budget(&server).await;
        if budget["bytes"] == 500 * MIB {
            Ok(())
        } else {
            Err(budget)
        }
    })
    .await;
    drop(server);
}

#[tokio::test]
async fn the_lower_of_the_configured_limit_and_the_limit_of_the_group_is_the_budget() {
    let Some(group) = Group::new("both", 600 * MIB) else {
        return;
    };
    let models = Models::new();
    let server = start(&group, &models, "memory.limit = '1GiB'");
    assert_eq!(reported_budget(&server).await["bytes"], 600 * MIB);
    drop(server);
    let server = start(&group, &models, "memory.limit = '300MiB'");
    let budget = reported_budget(&server).await;
    assert_eq!(budget["bytes"], 300 * MIB);
    assert_eq!(budget["source"], "configured");
    drop(server);
}

#[tokio::test]
async fn models_take_turns_in_a_group_and_the_kernel_kills_no_process() {
    const EACH: u64 = 100;
    let limit = 450 * MIB;
    let Some(group) = Group::new("turns", limit) else {
        return;
    };
    let models = Models::new();
    let names = ["one", "two", "three", "four"];
    for (name, value) in names.iter().zip([1.0, 2.0, 3.0, 4.0]) {
        models.add_adder(name, EACH, value);
    }
    let server = start(&group, &models, "");
    let sampler = PeakSampler::start(server.pid());
    for turn in 0..24_u16 {
        let model = usize::from(turn % 4);
        let answer = ask(&server, names[model], turn).await;
        assert_eq!(answer.number(), f64::from(turn) + 1.0 + model as f64);
    }
    assert!(sampler.finish().bytes <= limit);
    assert!(evictions(&server, "room").await + evictions(&server, "pressure").await >= 20.0);
    assert_eq!(group.kills(), 0);
    drop(server);
}

#[tokio::test]
async fn a_model_that_the_kernel_kills_is_counted_and_can_be_loaded_again_with_a_larger_reservation()
 {
    let Some(group) = Group::new("killed", 1000 * MIB) else {
        return;
    };
    let models = Models::new();
    models.add_allocator("hungry").add_adder("other", 8, 1.0);
    models.settings("hungry", 1, "warmup = false");
    // Readings are so rare that the kernel acts first, and the levels so high that nothing is evicted before.
    let settings = "memory.sample_interval = '1h'\nmemory.sample_interval_fast = '1h'\n\
        memory.levels = { elevated = 0.97, high = 0.98, critical = 0.99, exhausted = 1.0 }";
    let server = start(&group, &models, settings);
    assert_eq!(ask(&server, "other", 1).await.number(), 2.0);
    assert_eq!(ask(&server, "hungry", 2).await.number(), 2.0);

    // Its process keeps the bound that follows from the limit at its start.
    group.set_limit(500 * MIB);
    let answer = ask(&server, "hungry", 700).await;
    let error = answer.error(503);
    assert!(error.contains("memory ran out"), "{error}");
    // The request was not repeated. The kernel sometimes kills the next process of the group as well, when it has taken
    // the memory of the first but that has not ended.
    assert!(group.kills() >= 1);
    let kills = "headroom_model_oom_kills_total";
    let counted = server.metric(kills, &["name=\"hungry:1\""]).await;
    assert_eq!(counted, 1.0);
    // The server, the other model and the killed model all answer again.
    for model in ["other", "hungry"] {
        wait_until_served(&server, model, 3).await;
    }
    server.unload("hungry").await.ok();
    assert_eq!(ask(&server, "hungry", 2).await.number(), 2.0);
    let log = server.log();
    assert!(
        log.contains("the kernel killed a model's process because memory ran out"),
        "{log}"
    );
    drop(server);
}
