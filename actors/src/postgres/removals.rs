//! Answers that a driver must not see, because it did not ask for them.
//!
//! What is put into a group of messages below a driver is answered before the rest of that group. So it is
//! enough to count how many answers come too many, group by group.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::frames::Frames;

/// A group of messages. It ends with a Sync, or is a Query.
#[derive(Debug, Default)]
struct Group {
    /// How many answers to remove.
    answers: usize,
    /// The name under which the driver prepares a statement with it.
    name: Option<Bytes>,
}

/// Takes answers out of what a server sends.
#[derive(Debug)]
pub(super) struct Removals {
    answers: Frames,
    /// The groups that the server has not answered to the end. The last one is not sent to its end.
    groups: VecDeque<Group>,
    is_removing: bool,
    /// The names of statements that the server refused to prepare.
    refused: Vec<Bytes>,
}

impl Removals {
    /// For a connection over which nothing was sent.
    pub(super) fn new(asks_for_tls: bool) -> Self {
        Self {
            answers: Frames::of_server(asks_for_tls),
            // The start of the session, and what comes next.
            groups: VecDeque::from([Group::default(), Group::default()]),
            is_removing: false,
            refused: Vec::new(),
        }
    }

    /// Removes `answers` more of those to the group that is being sent.
    pub(super) fn add(&mut self, answers: usize) {
        if let Some(last) = self.groups.back_mut() {
            last.answers += answers;
        }
    }

    /// Records the name under which the driver prepares a statement with the group that is being sent.
    pub(super) fn name(&mut self, name: Bytes) {
        if let Some(last) = self.groups.back_mut() {
            last.name = Some(name);
        }
    }

    /// Takes the names of statements that the server has refused to prepare.
    pub(super) fn take_refused(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.refused)
    }

    /// Records that a message of this type is sent.
    pub(super) fn record_sent(&mut self, kind: u8) {
        if matches!(kind, b'S' | b'Q') {
            self.groups.push_back(Group::default());
        }
    }

    /// Removes what is to be removed from the bytes from `from`.
    pub(super) fn remove(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        let bytes = &mut buf.filled_mut()[from..];
        let (mut at, mut kept) = (0, 0);
        while let Some(part) = self.answers.next(bytes, at) {
            if part.is_first {
                self.is_removing = self.removes(part.kind);
            }
            if !self.is_removing {
                if kept < at {
                    bytes.copy_within(at..part.to, kept);
                }
                kept += part.to - at;
            }
            at = part.to;
        }
        buf.set_filled(from + kept);
    }

    /// Whether to remove the message of this type, which comes next.
    fn removes(&mut self, kind: u8) -> bool {
        let last = self.groups.len() == 1;
        let Some(group) = self.groups.front_mut() else {
            return false;
        };
        match kind {
            // ReadyForQuery. CopyInResponse: the server ignores the Sync that was sent before the data.
            b'Z' | b'G' => {
                if !last {
                    self.groups.pop_front();
                }
                false
            }
            // ParseComplete, BindComplete, CommandComplete.
            b'1' | b'2' | b'C' if group.answers > 0 => {
                group.answers -= 1;
                true
            }
            // ErrorResponse: the server skips the rest of the group.
            b'E' => {
                group.answers = 0;
                self.refused.extend(group.name.take());
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::message;
    use super::*;

    /// Passes `bytes` on in pieces of `piece` bytes. Returns what is left of them.
    fn read(removals: &mut Removals, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut room = [0; 512];
            let mut buf = ReadBuf::new(&mut room);
            buf.put_slice(b"before");
            buf.put_slice(piece);
            removals.remove(&mut buf, 6);
            read.extend(&buf.filled()[6..]);
        }
        read
    }

    fn answer(kind: u8) -> Vec<u8> {
        message(kind, b"1C\0\0\0\x04")
    }

    /// A change of a setting whose caller left is answered while a transaction begins.
    #[test]
    fn only_answers_of_the_group_are_removed() {
        for piece in 1..60 {
            let mut removals = Removals::new(false);
            assert_eq!(read(&mut removals, &answer(b'Z'), piece), answer(b'Z'));
            removals.record_sent(b'Q');
            removals.record_sent(b'S');
            removals.add(3);
            removals.record_sent(b'S');
            let earlier = [answer(b'C'), answer(b'Z'), answer(b'1'), answer(b'Z')].concat();
            let own = [answer(b'1'), answer(b'2'), answer(b'C')].concat();
            let after = [answer(b'2'), answer(b'C'), answer(b'Z')].concat();
            let came = [&earlier[..], &own, &after, &after].concat();
            let left = [earlier, after.clone(), after].concat();
            assert_eq!(read(&mut removals, &came, piece), left);
        }
    }

    #[test]
    fn several_groups_that_are_on_their_way_have_their_own_removals() {
        let own = [answer(b'1'), answer(b'2'), answer(b'C')].concat();
        let after = [answer(b'1'), answer(b'2'), answer(b'C'), answer(b'Z')].concat();
        let failed = [answer(b'E'), answer(b'Z')].concat();
        let notice = answer(b'N');
        for piece in 1..60 {
            for tls in [None, Some(b"N")] {
                let mut removals = Removals::new(tls.is_some());
                let start = [tls.map_or(&b""[..], |byte| &byte[..]), &answer(b'Z')].concat();
                assert_eq!(read(&mut removals, &start, piece), start);
                for count in [6, 3, 0, 3] {
                    removals.add(count);
                    removals.record_sent(b'S');
                }
                let came = [&own[..], &notice, &own, &after, &own, &failed, &after].concat();
                let left = [&notice[..], &after, &failed, &after].concat();
                assert_eq!(read(&mut removals, &came, piece), left);
                assert_eq!(
                    read(&mut removals, &[own.clone(), after.clone()].concat(), piece),
                    after
                );
            }
        }
    }

    /// The driver sends a Sync before the data, and another one after it.
    #[test]
    fn a_copy_to_the_server_is_one_group() {
        let mut removals = Removals::new(false);
        read(&mut removals, &answer(b'Z'), 9);
        removals.add(1);
        removals.record_sent(b'S');
        let began = [answer(b'1'), answer(b'2'), answer(b'G')].concat();
        assert_eq!(read(&mut removals, &began, 9), began[answer(b'1').len()..]);
        removals.record_sent(b'S');
        removals.add(1);
        removals.record_sent(b'S');
        let ended = [answer(b'C'), answer(b'Z')].concat();
        assert_eq!(read(&mut removals, &ended, 9), ended);
        assert_eq!(read(&mut removals, &answer(b'1'), 9), b"");
    }
}
