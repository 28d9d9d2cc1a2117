//! A model that is drained, because it is unloaded or replaced, takes no new sequences.

use super::host_memory::{WITHIN, load, load_context, step_of, until};
use crate::kernel::Load;
use crate::kernel::testing::TestSystem;
use crate::model::InferError;

#[test]
fn a_sequence_that_waits_for_its_start_during_a_drain_is_refused_and_not_split() {
    TestSystem::real_time(|system| async move {
        let model = load(&system, "plain", "").await;
        model.ask(step_of("open", true, false)).await.unwrap();
        let waiting = async { tokio::join!(model.ask(step_of("a", true, false)), model.ask(None)) };
        let drained = async {
            until("queued", async || model.owner.in_flight() == 2).await;
            model.resource.on_drain();
        };
        let ((refused, served), ()) = tokio::join!(waiting, drained);
        let draining = |id: &str| Err(InferError::Draining(id.to_owned()));
        assert_eq!(refused, draining("a"));
        served.unwrap();
        let late = model.ask(step_of("b", true, false)).await;
        assert_eq!(late, draining("b"), "it had a lease before the drain");
        let open = model.ask(step_of("open", false, true)).await;
        assert_eq!(open, Err(InferError::UnknownSequence("open".to_owned())));
        let whole = model.ask(step_of("c", true, true)).await;
        whole.expect("all of it is in one request");

        model.resource.unload().await;
        model.resource.load(load_context(WITHIN)).await.unwrap();
        model.ask(step_of("a", true, false)).await.unwrap();
        model.ask(step_of("a", false, true)).await.unwrap();
        model.root.stop().await;
    });
}
