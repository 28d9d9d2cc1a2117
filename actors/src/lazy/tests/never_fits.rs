//! What is larger than all that the budget could ever give.

use super::super::{AcquireError, Excess, Register};
use super::double::{MINUTE, Scripted, TestLoader, paused};

async fn excess(test: &TestLoader, name: &str) -> Excess {
    match test.acquire(name).await {
        Err(AcquireError::NeverFits(excess)) => excess,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_refused_before_anything_is_loaded_for_it_and_by_the_budget_of_that_moment() {
    paused(|system| async move {
        let base = Scripted::new();
        let huge = Scripted::new().bytes(200);
        let resources = vec![base.resource("base", &[]), huge.resource("huge", &["base"])];
        let test = TestLoader::open(&system, 300, resources).await;
        *test.ledger.most.lock().unwrap() = Some(100);
        let expected = Excess {
            need: 200,
            most: 100,
        };
        assert_eq!(excess(&test, "huge").await, expected);
        assert_eq!(test.status("huge").await.never_fits, Some(expected));
        assert_eq!((base.loads(), huge.loads()), (0, 0));
        assert_eq!(test.status("huge").await.failures, 0);
        // The budget grows.
        *test.ledger.most.lock().unwrap() = Some(300);
        assert_eq!(test.status("huge").await.never_fits, None);
        test.touch("huge").await;
        // What is loaded is there, whatever the budget has become.
        *test.ledger.most.lock().unwrap() = Some(100);
        test.touch("huge").await;
        assert_eq!(test.status("huge").await.never_fits, None);
        test.close().await;
    });
}

#[test]
fn what_it_depends_on_counts_as_measured_and_nothing_is_evicted_in_vain() {
    paused(|system| async move {
        // Far less than was thought: an estimate proves nothing.
        let base = Scripted::new().bytes(90).measured(60);
        let resources = vec![
            base.resource("base", &[]),
            Scripted::new().bytes(50).resource("large", &["base"]),
            Scripted::new().bytes(40).resource("small", &["base"]),
            Scripted::new().resource("idle", &[]),
        ];
        let test = TestLoader::open(&system, 100, resources).await;
        *test.ledger.most.lock().unwrap() = Some(100);
        test.touch("idle").await;
        let expected = Excess {
            need: 110,
            most: 100,
        };
        assert_eq!(excess(&test, "large").await, expected);
        assert_eq!(test.ready().await, ["base", "idle"]);
        test.touch("small").await;
        assert_eq!(test.ready().await, ["base", "small"]);
        test.close().await;
    });
}

#[test]
fn changed_files_change_the_answer() {
    paused(|system| async move {
        let huge = Scripted::new().bytes(200).resource("huge", &[]);
        let test = TestLoader::open(&system, 100, vec![huge]).await;
        *test.ledger.most.lock().unwrap() = Some(100);
        assert_eq!(excess(&test, "huge").await.need, 200);
        let resource = Scripted::new().bytes(100).resource("huge", &[]);
        let register = Register { resource };
        test.loader.ask(register, MINUTE).await.unwrap().unwrap();
        test.touch("huge").await;
        test.close().await;
    });
}
