//! A queue for one reader that may be slower than what it follows.
//!
//! Who sends never waits: what has no room is dropped, and a gap stands in its place. The reader finds the
//! gap between what it received before and what it receives after, also if nothing is sent afterwards, and
//! can then read again what it follows. A gap takes no room: there is at most one between two events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What may wait in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBounds {
    /// The most events.
    pub events: usize,
    /// The most bytes of all events together. A larger event may wait alone.
    pub bytes: usize,
}

/// What a reader receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued<T> {
    /// An event.
    Event(T),
    /// Events are missing here.
    Gap,
}

/// A new queue.
pub fn event_queue<T>(bounds: EventBounds) -> (EventSender<T>, EventReader<T>) {
    let queue = Arc::new(Queue {
        bounds,
        waiting: Mutex::new(Waiting {
            entries: VecDeque::new(),
            events: 0,
            bytes: 0,
            has_ended: false,
        }),
        sent: Notify::new(),
        closed: CancellationToken::new(),
    });
    (EventSender(Arc::clone(&queue)), EventReader(queue))
}

struct Queue<T> {
    bounds: EventBounds,
    waiting: Mutex<Waiting<T>>,
    /// Notified when there is something to read.
    sent: Notify,
    /// Cancelled when the reader has gone.
    closed: CancellationToken,
}

struct Waiting<T> {
    entries: VecDeque<Entry<T>>,
    events: usize,
    bytes: usize,
    has_ended: bool,
}

enum Entry<T> {
    Event { event: T, bytes: usize },
    Gap,
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().has_ended = true;
        self.sent.notify_one();
    }
}

impl<T> Waiting<T> {
    fn has_room(&self, bytes: usize, bounds: EventBounds) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= bounds.bytes;
        self.events == 0 || (fits && self.events < bounds.events)
    }

    fn push(&mut self, event: T, bytes: usize) {
        self.events += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push_back(Entry::Event { event, bytes });
    }

    fn push_gap(&mut self) {
        // Two gaps in a row say no more than one.
        if !matches!(self.entries.back(), Some(Entry::Gap)) {
            self.entries.push_back(Entry::Gap);
        }
    }

    fn pop(&mut self) -> Option<Queued<T>> {
        match self.entries.pop_front()? {
            Entry::Event { event, bytes } => {
                self.events -= 1;
                self.bytes -= bytes;
                Some(Queued::Event(event))
            }
            Entry::Gap => Some(Queued::Gap),
        }
    }
}

/// The sending end. When it is dropped, the reader receives what is in the queue, and then the end.
pub struct EventSender<T>(Arc<Queue<T>>);

impl<T> EventSender<T> {
    /// Sends an event of this size, or puts a gap in its place. Returns whether there was room. What is
    /// sent after the end, or without a reader, is dropped.
    pub fn send(&self, event: T, bytes: usize) -> bool {
        let mut waiting = self.0.lock();
        if waiting.has_ended || self.is_closed() {
            return true;
        }
        let has_room = waiting.has_room(bytes, self.0.bounds);
        if has_room {
            waiting.push(event, bytes);
        } else {
            waiting.push_gap();
        }
        drop(waiting);
        self.0.sent.notify_one();
        has_room
    }

    /// Says that events may be missing here.
    pub fn send_gap(&self) {
        let mut waiting = self.0.lock();
        if waiting.has_ended || self.is_closed() {
            return;
        }
        waiting.push_gap();
        drop(waiting);
        self.0.sent.notify_one();
    }

    /// Sends the last event, for which there is always room.
    pub fn end_with(self, event: T) {
        self.0.lock().push(event, 0);
    }

    /// The bytes of all events that wait.
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Waits until the reader has gone.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }
}

impl<T> Drop for EventSender<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T> fmt::Debug for EventSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSender")
    }
}

/// The reading end. When it is dropped, what waits in the queue is dropped too.
pub struct EventReader<T>(Arc<Queue<T>>);

impl<T> EventReader<T> {
    /// Waits for the next event or gap. `None` after the end. If the returned future is dropped, nothing is
    /// lost.
    pub async fn next(&mut self) -> Option<Queued<T>> {
        loop {
            {
                let mut waiting = self.0.lock();
                let next = waiting.pop();
                if next.is_some() || waiting.has_ended {
                    return next;
                }
            }
            self.0.sent.notified().await;
        }
    }
}

impl<T> Drop for EventReader<T> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        self.0.closed.cancel();
        let dropped = std::mem::take(&mut waiting.entries);
        drop(waiting);
        drop(dropped);
    }
}

impl<T> fmt::Debug for EventReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventReader")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const FEW: EventBounds = EventBounds {
        events: 3,
        bytes: 100,
    };

    /// What is in the queue now.
    fn read(reader: &mut EventReader<u32>) -> Vec<Queued<u32>> {
        let next = || reader.next().now_or_never().flatten();
        std::iter::from_fn(next).collect()
    }

    fn events(numbers: impl IntoIterator<Item = u32>) -> Vec<Queued<u32>> {
        numbers.into_iter().map(Queued::Event).collect()
    }

    #[test]
    fn a_gap_stands_in_the_place_of_what_had_no_room() {
        let (sender, mut reader) = event_queue(FEW);
        let sent: Vec<bool> = (0..5).map(|number| sender.send(number, 1)).collect();
        assert_eq!(sent, [true, true, true, false, false]);
        assert_eq!(reader.next().now_or_never(), Some(Some(Queued::Event(0))));
        assert!(sender.send(5, 1));
        let expected = [events([1, 2]), vec![Queued::Gap], events([5])].concat();
        assert_eq!(read(&mut reader), expected);
    }

    #[test]
    fn a_full_queue_that_falls_silent_still_says_gap() {
        let (sender, mut reader) = event_queue(FEW);
        for number in 0..80 {
            sender.send(number, 1);
        }
        assert_eq!(
            read(&mut reader),
            [events(0..3), vec![Queued::Gap]].concat()
        );
        assert!(reader.next().now_or_never().is_none(), "it has not ended");
    }

    #[test]
    fn a_full_queue_has_room_for_a_gap_and_for_the_end() {
        let (sender, mut reader) = event_queue(FEW);
        for number in 0..3 {
            sender.send(number, 1);
        }
        for _ in 0..5 {
            sender.send_gap();
            sender.send(99, 1);
        }
        sender.end_with(3);
        let expected = [events(0..3), vec![Queued::Gap], events([3])].concat();
        assert_eq!(read(&mut reader), expected);
        assert_eq!(reader.next().now_or_never(), Some(None), "it has ended");
    }

    #[test]
    fn a_gap_that_was_read_can_be_followed_by_another_one() {
        let (sender, mut reader) = event_queue(FEW);
        for _ in 0..3 {
            sender.send_gap();
            sender.send_gap();
            assert_eq!(read(&mut reader), [Queued::Gap]);
        }
    }

    #[test]
    fn the_bytes_are_bounded_and_a_large_event_waits_alone() {
        let (sender, mut reader) = event_queue(FEW);
        assert!(sender.send(0, 60));
        assert!(!sender.send(1, 41));
        assert!(sender.send(2, 40));
        assert!(!sender.send(3, usize::MAX));
        let expected = [
            events([0]),
            vec![Queued::Gap],
            events([2]),
            vec![Queued::Gap],
        ];
        assert_eq!(read(&mut reader), expected.concat());
        assert!(sender.send(4, usize::MAX));
        assert!(!sender.send(5, 1));
        assert_eq!(read(&mut reader), [events([4]), vec![Queued::Gap]].concat());
        assert!(sender.send(6, 100), "all bytes are free again");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (sender, mut reader) = event_queue(FEW);
        let (next, ()) = tokio::join!(reader.next(), async { sender.send_gap() });
        assert_eq!(next, Some(Queued::Gap));
        let (next, _) = tokio::join!(reader.next(), async { sender.send(1, 1) });
        assert_eq!(next, Some(Queued::Event(1)));
        let (next, ()) = tokio::join!(reader.next(), async { drop(sender) });
        assert_eq!(next, None);
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_reader_has_gone() {
        let (sender, reader) = event_queue(FEW);
        let event = Arc::new(());
        sender.send(Arc::clone(&event), 1);
        assert!(!sender.is_closed());
        let ((), ()) = tokio::join!(sender.closed(), async { drop(reader) });
        assert!(sender.is_closed());
        sender.send(Arc::clone(&event), 1);
        assert_eq!(Arc::strong_count(&event), 1, "nothing is kept for nobody");
    }

    proptest! {
        /// `None` is a read.
        #[test]
        fn what_is_read_is_what_was_sent_with_gaps_where_some_is_missing(
            steps in proptest::collection::vec(proptest::option::of(0..70_usize), 0..200),
        ) {
            let (sender, mut reader) = event_queue(FEW);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for (number, step) in (0..).zip(steps) {
                match step {
                    Some(bytes) => {
                        sent.push(number);
                        sender.send(number, bytes);
                    }
                    None => received.extend(reader.next().now_or_never().flatten()),
                }
                let waiting = sender.0.lock();
                prop_assert!(waiting.events <= FEW.events && waiting.bytes <= FEW.bytes);
                prop_assert!(waiting.entries.len() <= 2 * FEW.events + 1);
            }
            received.extend(read(&mut reader));
            let mut sent = sent.into_iter();
            let mut received = received.into_iter();
            while let Some(next) = received.next() {
                match next {
                    Queued::Event(number) => prop_assert_eq!(sent.next(), Some(number)),
                    Queued::Gap => match received.next() {
                        Some(Queued::Event(after)) => {
                            let missing = sent.by_ref().take_while(|number| *number != after);
                            prop_assert!(missing.count() > 0, "a gap where nothing is missing");
                        }
                        Some(Queued::Gap) => prop_assert!(false, "two gaps in a row"),
                        None => prop_assert!(sent.by_ref().count() > 0),
                    },
                }
            }
            prop_assert_eq!(sent.next(), None, "missing without a gap");
        }
    }
}
