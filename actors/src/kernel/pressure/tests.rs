use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn freed(bytes: u64) -> Vec<Action> {
    vec![Action {
        what: "something".into(),
        promised_bytes: bytes,
        before_bytes: bytes,
        after_bytes: 0,
    }]
}

/// How many subscribers acknowledged, and how many stayed silent.
async fn counts(writer: &PressureWriter, epoch: u64) -> (usize, usize) {
    let result = writer.acknowledgements(epoch, SECOND).await.unwrap();
    (result.received.len(), result.silent.len())
}

#[tokio::test(start_paused = true)]
async fn the_writer_learns_who_gave_back_what_and_who_did_not_acknowledge() {
    let (writer, reader) = channel();
    let mut loader = reader.subscribe("loader", Stage::Idle);
    let _silent = reader.subscribe("silent", Stage::Slack);
    let epoch = writer.publish(Level::High, Some(Stage::Idle), 100);
    let pressure = loader.changed().await;
    assert_eq!(
        (pressure.level, pressure.wanted_bytes, pressure.epoch),
        (Level::High, 100, epoch)
    );
    loader.acknowledge(epoch, freed(60));
    let result = writer.acknowledgements(epoch, SECOND).await.unwrap();
    let expected = Acknowledgements {
        received: vec![Acknowledgement {
            name: "loader".into(),
            stage: Stage::Idle,
            actions: freed(60),
        }],
        silent: vec!["silent".into()],
    };
    assert_eq!(result, expected);
}

#[tokio::test(start_paused = true)]
async fn the_writer_waits_only_for_subscribers_whose_stage_is_asked() {
    let (writer, reader) = channel();
    let mut cheap = reader.subscribe("cheap", Stage::Slack);
    let mut costly = reader.subscribe("costly", Stage::InUse);
    let epoch = writer.publish(Level::Elevated, Some(Stage::Slack), 1);
    assert!(cheap.changed().await.asks(Stage::Slack));
    assert!(!costly.changed().await.asks(Stage::InUse));
    cheap.acknowledge(epoch, Vec::new());
    let started = tokio::time::Instant::now();
    assert_eq!(counts(&writer, epoch).await, (1, 0));
    assert_eq!(started.elapsed(), Duration::ZERO);
    // A level without a stage asks nobody.
    let epoch = writer.publish(Level::Normal, None, 0);
    assert_eq!(counts(&writer, epoch).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_subscriber_receives_the_current_level() {
    let (writer, reader) = channel();
    writer.publish(Level::Critical, Some(Stage::Idle), 7);
    let mut late = reader.subscribe("late", Stage::Idle);
    assert_eq!(late.changed().await.level, Level::Critical);
}

#[tokio::test(start_paused = true)]
async fn a_late_acknowledgement_does_not_count_for_the_next_epoch() {
    let (writer, reader) = channel();
    let mut slow = reader.subscribe("slow", Stage::Idle);
    let first = writer.publish(Level::High, Some(Stage::Idle), 1);
    slow.changed().await;
    let second = writer.publish(Level::Critical, Some(Stage::Idle), 2);
    slow.acknowledge(first, freed(1));
    assert_eq!(writer.acknowledgements(first, SECOND).await, None);
    assert_eq!(counts(&writer, second).await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_writer_does_not_wait_for_a_subscriber_that_left() {
    let (writer, reader) = channel();
    let gone = reader.subscribe("gone", Stage::Idle);
    let epoch = writer.publish(Level::High, Some(Stage::Idle), 1);
    let started = tokio::time::Instant::now();
    let (result, ()) = tokio::join!(writer.acknowledgements(epoch, SECOND), async {
        drop(gone);
    });
    assert_eq!(result, Some(Acknowledgements::default()));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn only_the_last_acknowledgement_wakes_anyone() {
    let (writer, reader) = channel();
    let mut first = reader.subscribe("first", Stage::Idle);
    let mut second = reader.subscribe("second", Stage::Idle);
    let epoch = writer.publish(Level::High, Some(Stage::Idle), 1);
    first.changed().await;
    second.changed().await;
    let started = tokio::time::Instant::now();
    let (result, ()) = tokio::join!(writer.acknowledgements(epoch, SECOND), async {
        first.acknowledge(epoch, Vec::new());
        assert!(!second.receiver.has_changed().unwrap());
        tokio::task::yield_now().await;
        second.acknowledge(epoch, Vec::new());
    });
    assert_eq!(result.unwrap().received.len(), 2);
    assert_eq!(started.elapsed(), Duration::ZERO);
}
