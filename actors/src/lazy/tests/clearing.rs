//! Unloads on an operator's request: what goes, what stays and why.

use std::time::Duration;

use tokio::time::{Instant, advance, sleep};

use super::super::{
    Clear, ClearError, ClearOutcome, ClearReport, KeptReason, Phase, Register, UnknownKind,
    UnknownResource,
};
use super::scripted::{Log, Scripted};
use super::test_loader::{TestLoader, paused};
use super::{MINUTE, SECOND};
use crate::kernel::Resource;
use crate::kernel::testing::TestSystem;

fn all() -> Clear {
    Clear {
        wait: 10 * SECOND,
        ..Clear::default()
    }
}

fn named(names: &[&str]) -> Clear {
    Clear {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..all()
    }
}

async fn clear(loader: &TestLoader, clear: Clear) -> ClearReport {
    loader.handle.ask(clear, MINUTE).await.unwrap().unwrap()
}

/// The name and the outcome of each resource in the report.
fn outcomes(report: &ClearReport) -> Vec<(&str, ClearOutcome, Option<KeptReason>)> {
    let resources = report.resources.iter();
    resources
        .map(|it| (&*it.name, it.outcome, it.reason))
        .collect()
}

const UNLOADED: (ClearOutcome, Option<KeptReason>) = (ClearOutcome::Unloaded, None);
const DRAINING: (ClearOutcome, Option<KeptReason>) = (ClearOutcome::Draining, None);

fn kept(reason: KeptReason) -> (ClearOutcome, Option<KeptReason>) {
    (ClearOutcome::Kept, Some(reason))
}

#[track_caller]
fn assert_outcomes(report: &ClearReport, expected: &[(&str, (ClearOutcome, Option<KeptReason>))]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, (outcome, reason))| (*name, *outcome, *reason))
        .collect();
    assert_eq!(outcomes(report), expected);
}

/// A base with a dependent, a resource without either, a pinned one, and one that is never used.
async fn start(system: &TestSystem) -> TestLoader {
    let resources: Vec<Resource> = vec![
        Scripted::new().resource("base", &[]),
        Scripted::new().resource("top", &["base"]),
        Scripted::new().resource("other", &[]),
        Scripted::new().pinned().resource("pinned", &[]),
        Scripted::new().resource("unused", &[]),
    ];
    let loader = TestLoader::start(system, 100, resources).await;
    for name in ["top", "other", "pinned"] {
        loader.use_once(name).await;
    }
    loader
}

#[test]
fn everything_but_what_is_pinned_is_unloaded_and_the_bytes_are_promised() {
    paused(|system| async move {
        let loader = start(&system).await;
        let report = clear(&loader, all()).await;
        let expected = [
            ("base", UNLOADED),
            ("other", UNLOADED),
            ("pinned", kept(KeptReason::Pinned)),
            ("top", UNLOADED),
        ];
        assert_outcomes(&report, &expected);
        assert_eq!((report.promised_bytes, loader.budget.used()), (30, 10));
        for name in ["base", "other", "top"] {
            let status = loader.status(name).await;
            assert_eq!(status.phase, Phase::Cold);
            assert_eq!(status.counts.evictions["request"], 1, "{name}");
        }
        loader.stop_and_check().await;
    });
}

#[test]
fn a_pinned_resource_is_unloaded_by_its_name() {
    paused(|system| async move {
        let loader = start(&system).await;
        let report = clear(&loader, named(&["pinned", "unused", "pinned"])).await;
        let expected = [
            ("pinned", UNLOADED),
            ("unused", kept(KeptReason::NotLoaded)),
        ];
        assert_outcomes(&report, &expected);
        assert_eq!(loader.ready().await, ["base", "other", "top"]);
        loader.stop_and_check().await;
    });
}

#[test]
fn what_is_in_use_is_drained_and_not_torn_away() {
    paused(|system| async move {
        let loader = start(&system).await;
        let lease = loader.acquire("other").await.unwrap();
        let begun = Instant::now();
        let wait = 2 * SECOND;
        let report = clear(
            &loader,
            Clear {
                wait,
                ..named(&["other"])
            },
        )
        .await;
        assert_outcomes(&report, &[("other", DRAINING)]);
        assert!((2.0..2.01).contains(&report.waited_seconds), "{report:?}");
        assert_eq!(begun.elapsed().as_secs(), 2);
        assert_eq!(loader.status("other").await.phase, Phase::Draining);
        assert_eq!(loader.budget.used(), 40, "its user still has it");
        drop(lease);
        sleep(SECOND).await;
        assert_eq!(loader.status("other").await.phase, Phase::Cold);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_request_ends_as_soon_as_the_last_user_is_done() {
    paused(|system| async move {
        let loader = start(&system).await;
        let lease = loader.acquire("other").await.unwrap();
        let user = async {
            sleep(SECOND).await;
            drop(lease);
        };
        let (report, ()) = tokio::join!(clear(&loader, named(&["other"])), user);
        assert_outcomes(&report, &[("other", UNLOADED)]);
        assert!((1.0..1.1).contains(&report.waited_seconds), "{report:?}");
        loader.stop_and_check().await;
    });
}

#[test]
fn what_others_need_stays_unless_they_are_chosen_too() {
    paused(|system| async move {
        let loader = start(&system).await;
        let report = clear(&loader, named(&["base"])).await;
        assert_outcomes(&report, &[("base", kept(KeptReason::Needed))]);
        assert_eq!(report.resources[0].needed_by, ["top"]);
        assert_eq!(report.promised_bytes, 0);
        assert_eq!(loader.ready().await.len(), 4);
        let report = clear(&loader, named(&["base", "top"])).await;
        assert_outcomes(&report, &[("base", UNLOADED), ("top", UNLOADED)]);
        loader.stop_and_check().await;
    });
}

#[test]
fn dependents_go_before_their_dependencies() {
    paused(|system| async move {
        let log = Log::default();
        let part = || Scripted::new().log(&log);
        let resources = vec![
            part().resource("base", &[]),
            part().resource("top", &["base"]),
        ];
        let loader = TestLoader::start(&system, 100, resources).await;
        loader.use_once("top").await;
        log.lock().unwrap().clear();
        clear(&loader, all()).await;
        let order = ["unload top", "unloaded top", "unload base", "unloaded base"];
        assert_eq!(*log.lock().unwrap(), order);
        loader.stop_and_check().await;
    });
}

#[test]
fn only_what_was_idle_for_long_enough_is_unloaded() {
    paused(|system| async move {
        let loader = start(&system).await;
        sleep(MINUTE).await;
        let lease = loader.acquire("top").await.unwrap();
        sleep(10 * SECOND).await;
        let idle_for = |seconds| Clear {
            idle_for: Some(Duration::from_secs(seconds)),
            ..all()
        };
        let report = clear(&loader, idle_for(80)).await;
        let recently = kept(KeptReason::UsedRecently);
        let expected = [
            ("base", recently),
            ("other", recently),
            ("pinned", kept(KeptReason::Pinned)),
            ("top", recently),
        ];
        assert_outcomes(&report, &expected);
        let report = clear(&loader, idle_for(5)).await;
        let expected = [
            ("base", kept(KeptReason::Needed)),
            ("other", UNLOADED),
            ("pinned", kept(KeptReason::Pinned)),
            ("top", kept(KeptReason::InUse)),
        ];
        assert_outcomes(&report, &expected);
        drop(lease);
        sleep(10 * SECOND).await;
        let report = clear(&loader, idle_for(5)).await;
        let expected = [
            ("base", UNLOADED),
            ("pinned", kept(KeptReason::Pinned)),
            ("top", UNLOADED),
        ];
        assert_outcomes(&report, &expected);
        loader.stop_and_check().await;
    });
}

#[test]
fn what_was_used_or_pinned_since_the_sender_looked_stays() {
    paused(|system| async move {
        let loader = start(&system).await;
        let seen = loader.status("other").await.counts.uses();
        let unless_changed = |name: &str, uses: u64| Clear {
            uses: Some(uses),
            keep_pinned: true,
            ..named(&[name])
        };
        loader.use_once("other").await;
        let report = clear(&loader, unless_changed("other", seen)).await;
        assert_outcomes(&report, &[("other", kept(KeptReason::UsedRecently))]);
        let seen = loader.status("pinned").await.counts.uses();
        let report = clear(&loader, unless_changed("pinned", seen)).await;
        assert_outcomes(&report, &[("pinned", kept(KeptReason::Pinned))]);
        let seen = loader.status("other").await.counts.uses();
        let report = clear(&loader, unless_changed("other", seen)).await;
        assert_outcomes(&report, &[("other", UNLOADED)]);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_kind_chooses_its_resources_only() {
    paused(|system| async move {
        let loader = start(&system).await;
        let resource = Resource {
            kind: "another",
            ..Scripted::new().resource("never used", &[])
        };
        let register = loader.handle.ask(Register { resource }, MINUTE);
        register.await.unwrap().unwrap();
        let of_kind = |kind: &str| Clear {
            kind: Some(kind.to_owned()),
            ..all()
        };
        assert_outcomes(&clear(&loader, of_kind("another")).await, &[]);
        let report = clear(
            &loader,
            Clear {
                kind: Some("another".to_owned()),
                ..named(&["top"])
            },
        )
        .await;
        assert_outcomes(&report, &[("top", kept(KeptReason::OtherKind))]);
        assert_eq!(loader.ready().await.len(), 4);
        assert_eq!(clear(&loader, of_kind("scripted")).await.promised_bytes, 30);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    paused(|system| async move {
        let loader = start(&system).await;
        let lease = loader.acquire("other").await.unwrap();
        let begun = Instant::now();
        let dry_run = Clear {
            dry_run: true,
            ..all()
        };
        let report = clear(&loader, dry_run).await;
        let expected = [
            ("base", UNLOADED),
            ("other", DRAINING),
            ("pinned", kept(KeptReason::Pinned)),
            ("top", UNLOADED),
        ];
        assert_outcomes(&report, &expected);
        assert_eq!((report.dry_run, report.promised_bytes), (true, 30));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(loader.ready().await.len(), 4);
        drop(lease);
        loader.stop_and_check().await;
    });
}

#[test]
fn a_load_under_way_ends_and_is_drained_after_it() {
    paused(|system| async move {
        let thing = Scripted::new().load_time(SECOND);
        let loader = TestLoader::start(&system, 100, vec![thing.resource("thing", &[])]).await;
        let user = async { drop(loader.acquire("thing").await.unwrap()) };
        let clearing = async {
            advance(SECOND / 2).await;
            clear(&loader, all()).await
        };
        let ((), report) = tokio::join!(user, clearing);
        assert_outcomes(&report, &[("thing", UNLOADED)]);
        assert_eq!(loader.status("thing").await.counts.evictions["request"], 1);
        loader.stop_and_check().await;
    });
}

#[test]
fn an_unknown_name_or_kind_is_refused_and_nothing_is_unloaded() {
    paused(|system| async move {
        let loader = start(&system).await;
        let refused = loader
            .handle
            .ask(named(&["other", "nothing"]), MINUTE)
            .await;
        assert_eq!(
            refused.unwrap().unwrap_err(),
            ClearError::from(UnknownResource("nothing".to_owned()))
        );
        let unknown = Clear {
            kind: Some("modell".to_owned()),
            ..all()
        };
        let refused = loader.handle.ask(unknown, MINUTE).await.unwrap();
        let kind = UnknownKind {
            kind: "modell".to_owned(),
            kinds: vec!["scripted"],
        };
        assert_eq!(refused.unwrap_err(), ClearError::from(kind));
        assert_eq!(loader.ready().await.len(), 4);
        loader.stop_and_check().await;
    });
}
