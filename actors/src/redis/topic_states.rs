//! What the server was told about each topic on one connection.
//!
//! At most one command for a topic is in flight, so an answer always belongs to the last command for its
//! topic. A topic that counts as subscribed therefore is subscribed at the server, and stays so until the
//! subscriber itself ends it. Without this rule, the late answer to a first `SUBSCRIBE` could arrive after
//! an `UNSUBSCRIBE`, and a topic that the server has ended would count as subscribed.

use std::collections::BTreeMap;

use super::subscriptions::Topic;

/// A command that changes the subscription of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicCommand {
    Subscribe,
    Unsubscribe,
}

/// What the server was told about one topic. A topic without a state is not subscribed, and no command
/// for it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TopicState {
    /// `SUBSCRIBE` is in flight.
    Subscribing,
    /// The server has confirmed the subscription.
    Subscribed,
    /// `UNSUBSCRIBE` is in flight.
    Unsubscribing,
}

/// The states of all topics on one connection.
#[derive(Debug, Default)]
pub(super) struct TopicStates {
    states: BTreeMap<Topic, TopicState>,
}

impl TopicStates {
    /// The states on a new connection, on which the server has confirmed `topics`.
    pub(super) fn subscribed_to(topics: impl IntoIterator<Item = Topic>) -> Self {
        let states = topics.into_iter();
        Self {
            states: states
                .map(|topic| (topic, TopicState::Subscribed))
                .collect(),
        }
    }

    /// Whether the server was told of no topic, and no command is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether everything published to `topic` from now on reaches this connection.
    pub(super) fn is_subscribed(&self, topic: &Topic) -> bool {
        self.states.get(topic) == Some(&TopicState::Subscribed)
    }

    /// The topics that the server has confirmed.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &Topic> {
        let states = self.states.iter();
        states.filter_map(|(topic, state)| (*state == TopicState::Subscribed).then_some(topic))
    }

    /// The command that brings the server closer to what is wanted, if one is due. It counts as in
    /// flight from now on. While another one is in flight, none is due before its answer.
    pub(super) fn settle(&mut self, topic: &Topic, is_wanted: bool) -> Option<TopicCommand> {
        match (self.states.get_mut(topic), is_wanted) {
            (None, true) => {
                self.states.insert(topic.clone(), TopicState::Subscribing);
                Some(TopicCommand::Subscribe)
            }
            (Some(state @ TopicState::Subscribed), false) => {
                *state = TopicState::Unsubscribing;
                Some(TopicCommand::Unsubscribe)
            }
            _ => None,
        }
    }

    /// The server has carried out the command in flight for `topic`.
    pub(super) fn done(&mut self, topic: &Topic) {
        self.answered(topic, true);
    }

    /// The server has refused the command in flight for `topic`, so nothing has changed.
    pub(super) fn refused(&mut self, topic: &Topic) {
        self.answered(topic, false);
    }

    fn answered(&mut self, topic: &Topic, is_done: bool) {
        let Some(state) = self.states.get_mut(topic) else {
            return;
        };
        match (*state, is_done) {
            (TopicState::Subscribing, true) | (TopicState::Unsubscribing, false) => {
                *state = TopicState::Subscribed;
            }
            (TopicState::Subscribing, false) | (TopicState::Unsubscribing, true) => {
                self.states.remove(topic);
            }
            (TopicState::Subscribed, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const TOPICS: u8 = 3;

    fn topic(number: u8) -> Topic {
        Topic::Channel(number.to_string())
    }

    /// The subscriber, a server, and the way between them. Commands and answers keep their order.
    #[derive(Default)]
    struct Model {
        states: TopicStates,
        waiters: [u32; TOPICS as usize],
        listeners: [u32; TOPICS as usize],
        commands: VecDeque<(u8, TopicCommand)>,
        answers: VecDeque<u8>,
        server: BTreeSet<u8>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// A caller asks for a topic.
        Listen(u8),
        /// A caller that waits leaves.
        Leave(u8),
        /// A subscription is dropped.
        Drop(u8),
        /// The server carries out the next command.
        Serve,
        /// The next answer arrives.
        Answer,
    }

    impl Model {
        fn take(&mut self, step: Step) {
            match step {
                Step::Listen(number) => {
                    self.waiters[usize::from(number)] += 1;
                    self.settle(number);
                }
                // The subscriber looks only at dropped subscriptions. It notices a caller that has left
                // at the next answer.
                Step::Leave(number) => {
                    let waiters = &mut self.waiters[usize::from(number)];
                    *waiters = waiters.saturating_sub(1);
                }
                Step::Drop(number) => {
                    let listeners = &mut self.listeners[usize::from(number)];
                    *listeners = listeners.saturating_sub(1);
                    self.settle(number);
                }
                Step::Serve => {
                    let Some((number, command)) = self.commands.pop_front() else {
                        return;
                    };
                    match command {
                        TopicCommand::Subscribe => self.server.insert(number),
                        TopicCommand::Unsubscribe => self.server.remove(&number),
                    };
                    self.answers.push_back(number);
                }
                Step::Answer => {
                    if let Some(number) = self.answers.pop_front() {
                        self.states.done(&topic(number));
                        self.settle(number);
                    }
                }
            }
        }

        /// As the subscriber does after each event.
        fn settle(&mut self, number: u8) {
            let index = usize::from(number);
            if self.states.is_subscribed(&topic(number)) {
                self.listeners[index] += std::mem::take(&mut self.waiters[index]);
            }
            let is_wanted = self.waiters[index] + self.listeners[index] > 0;
            if let Some(command) = self.states.settle(&topic(number), is_wanted) {
                self.commands.push_back((number, command));
            }
        }

        fn check(&self) {
            for number in 0..TOPICS {
                let is_heard = self.listeners[usize::from(number)] > 0;
                assert!(!is_heard || self.server.contains(&number), "deaf: {number}");
                let in_flight = self.commands.iter().filter(|(other, _)| *other == number);
                let unread = self.answers.iter().filter(|other| **other == number);
                assert!(in_flight.count() + unread.count() <= 1, "{number}");
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..TOPICS).prop_map(Step::Listen),
            1 => (0..TOPICS).prop_map(Step::Leave),
            3 => (0..TOPICS).prop_map(Step::Drop),
            3 => Just(Step::Serve),
            3 => Just(Step::Answer),
        ]
    }

    proptest! {
        #[test]
        fn whoever_was_answered_is_subscribed_at_the_server_until_the_drop(
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut model = Model::default();
            for step in steps {
                model.take(step);
                model.check();
            }
            // For each topic, the answer to what is in flight and one more command.
            for _ in 0..TOPICS * 4 {
                model.take(Step::Serve);
                model.take(Step::Answer);
                model.check();
            }
            prop_assert!(model.commands.is_empty() && model.answers.is_empty());
            for number in 0..TOPICS {
                let index = usize::from(number);
                prop_assert_eq!(model.waiters[index], 0, "it waits for ever");
                let is_heard = model.listeners[index] > 0;
                prop_assert_eq!(model.server.contains(&number), is_heard);
            }
        }
    }

    #[test]
    fn a_refusal_leaves_a_topic_as_it_was() {
        let mut states = TopicStates::default();
        let news = topic(0);
        assert_eq!(states.settle(&news, true), Some(TopicCommand::Subscribe));
        states.refused(&news);
        assert!(!states.is_subscribed(&news));
        assert_eq!(states.settle(&news, true), Some(TopicCommand::Subscribe));
        states.done(&news);
        assert_eq!(states.settle(&news, false), Some(TopicCommand::Unsubscribe));
        states.refused(&news);
        assert!(states.is_subscribed(&news));
    }
}
