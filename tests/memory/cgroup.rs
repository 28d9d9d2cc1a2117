//! A control group's limit is the budget where the settings name none.

use headroom_test_support::cgroup::{Group, Version};
use headroom_test_support::models::Models;
use headroom_test_support::process_tree::Watch;
use headroom_test_support::server::Server;

use super::stage::{BINARY, DEADLINE, MIB, ModelsExt, ask, evictions, number};

fn serve(group: &Group, models: &Models, settings: &str) -> Server {
    group.serve(models.options(BINARY).settings(settings))
}

fn source(group: &Group) -> &'static str {
    match group.version() {
        Version::V1 => "cgroup_v1",
        Version::V2 => "cgroup_v2",
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
    let server = serve(&group, &models, "memory.sample_interval = '100ms'");
    let told = budget(&server).await;
    assert_eq!(told["bytes"], 600 * MIB, "{told}");
    assert_eq!(told["source"], source(&group));
    let logged = format!("source=\"{}\"", source(&group));
    assert!(server.log().contains(&logged));

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
    let server = serve(&group, &models, "memory.limit = '1GiB'");
    assert_eq!(budget(&server).await["bytes"], 600 * MIB);
    drop(server);
    let server = serve(&group, &models, "memory.limit = '300MiB'");
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
    let server = serve(&group, &models, "");
    let watch = Watch::start(server.pid());
    for turn in 0..24_u16 {
        let model = usize::from(turn % 4);
        let answer = ask(&server, names[model], turn).await;
        assert_eq!(number(answer), f64::from(turn) + 1.0 + model as f64);
    }
    assert!(watch.finish().bytes <= limit);
    assert!(evictions(&server, "room").await + evictions(&server, "pressure").await >= 20.0);
    assert_eq!(group.kills(), 0);
    drop(server);
}

#[tokio::test]
async fn a_model_that_the_kernel_kills_is_recognised_and_comes_back_although_it_reserves_more() {
    let Some(group) = Group::new("killed", 1000 * MIB) else {
        return;
    };
    let models = Models::new();
    models.takes("hungry").adds("other", 8, 1.0);
    models.settings("hungry", 1, "warmup = false");
    // The supervisor looks too rarely to come before the kernel, and does nothing before it must.
    let settings = "memory.sample_interval = '1h'\nmemory.sample_interval_fast = '1h'\n\
        memory.levels = { elevated = 0.97, high = 0.98, critical = 0.99, exhausted = 1.0 }";
    let server = serve(&group, &models, settings);
    assert_eq!(number(ask(&server, "other", 1).await), 2.0);
    assert_eq!(number(ask(&server, "hungry", 2).await), 2.0);

    // Its process may take what was left by the limit that there was.
    group.set_limit(500 * MIB);
    let answer = ask(&server, "hungry", 700).await;
    let error = answer.error(503);
    assert!(error.contains("memory ran out"), "{error}");
    // It was not run a second time.
    assert_eq!(group.kills(), 1);
    let kills = "headroom_model_oom_kills_total";
    let told = server.metric(kills, &["name=\"hungry:1\""]).await;
    assert!(told >= 1.0);
    // The server and the others go on, and so does the model.
    for model in ["other", "hungry"] {
        headroom_test_support::wait::wait_for_async(DEADLINE, || async {
            let answer = ask(&server, model, 3).await;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await;
    }
    let unload = server.repository("hungry", "unload").await;
    unload.ok();
    assert_eq!(number(ask(&server, "hungry", 2).await), 2.0);
    let log = server.log();
    assert!(
        log.contains("the kernel ended a model for want of memory"),
        "{log}"
    );
    drop(server);
}
