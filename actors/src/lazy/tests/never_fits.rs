//! What is larger than all that the budget could ever give.

use super::super::{AcquireError, Excess, Register};
use super::double::{MINUTE, Scripted, Yard, paused};

async fn excess(yard: &Yard, name: &str) -> Excess {
    match yard.acquire(name).await {
        Err(AcquireError::NeverFits(excess)) => excess,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_refused_before_anything_is_loaded_for_it_and_by_the_budget_of_that_moment() {
    paused(|universe| async move {
        let base = Scripted::new();
        let huge = Scripted::new().bytes(200);
        let resources = vec![base.resource("base", &[]), huge.resource("huge", &["base"])];
        let yard = Yard::open(&universe, 300, resources).await;
        *yard.ledger.most.lock().unwrap() = Some(100);
        let expected = Excess {
            need: 200,
            most: 100,
        };
        assert_eq!(excess(&yard, "huge").await, expected);
        assert_eq!(yard.status("huge").await.never_fits, Some(expected));
        assert_eq!((base.loads(), huge.loads()), (0, 0));
        assert_eq!(yard.status("huge").await.failures, 0);
        // The budget grows.
        *yard.ledger.most.lock().unwrap() = Some(300);
        assert_eq!(yard.status("huge").await.never_fits, None);
        yard.touch("huge").await;
        // What is loaded is there, whatever the budget has become.
        *yard.ledger.most.lock().unwrap() = Some(100);
        yard.touch("huge").await;
        assert_eq!(yard.status("huge").await.never_fits, None);
        yard.close().await;
    });
}

#[test]
fn what_it_depends_on_counts_as_measured_and_nothing_is_evicted_in_vain() {
    paused(|universe| async move {
        // Far less than was thought: an estimate proves nothing.
        let base = Scripted::new().bytes(90).measured(60);
        let resources = vec![
            base.resource("base", &[]),
            Scripted::new().bytes(50).resource("large", &["base"]),
            Scripted::new().bytes(40).resource("small", &["base"]),
            Scripted::new().resource("idle", &[]),
        ];
        let yard = Yard::open(&universe, 100, resources).await;
        *yard.ledger.most.lock().unwrap() = Some(100);
        yard.touch("idle").await;
        let expected = Excess {
            need: 110,
            most: 100,
        };
        assert_eq!(excess(&yard, "large").await, expected);
        assert_eq!(yard.ready().await, ["base", "idle"]);
        yard.touch("small").await;
        assert_eq!(yard.ready().await, ["base", "small"]);
        yard.close().await;
    });
}

#[test]
fn changed_files_change_the_answer() {
    paused(|universe| async move {
        let huge = Scripted::new().bytes(200).resource("huge", &[]);
        let yard = Yard::open(&universe, 100, vec![huge]).await;
        *yard.ledger.most.lock().unwrap() = Some(100);
        assert_eq!(excess(&yard, "huge").await.need, 200);
        let resource = Scripted::new().bytes(100).resource("huge", &[]);
        let register = Register { resource };
        yard.loader.ask(register, MINUTE).await.unwrap().unwrap();
        yard.touch("huge").await;
        yard.close().await;
    });
}
