//! Answers that a driver must not see, because it did not ask for them.
//!
//! What is put into a group of messages below a driver is answered before the rest of that group. So it is
//! enough to count how many answers come too many, group by group.
//!
//! A driver that does not know the type of a column asks the server. Where the description of the columns
//! comes with the rows, it asks in the middle of the answer, and never reads the rest if that is large. So
//! there, types are taken out of the description if the statement was not described with them before: the
//! driver knows those.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::io::ReadBuf;
use tokio_postgres::types::{Oid, Type};

use super::frames::Frames;

/// A group of messages. It ends with a Sync, or is a Query.
#[derive(Debug, Default)]
struct Group {
    /// How many answers to remove.
    answers: usize,
    /// The name under which the driver prepares a statement with it.
    name: Option<Bytes>,
    /// The types of the columns with which the driver knows the statement, if the group describes it and runs
    /// it too.
    types: Option<Vec<Oid>>,
}

/// What happens to a message.
#[derive(Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Passed,
    Removed,
    /// It is held back to its end, and passed without the types that the driver does not know.
    Described,
}

/// Takes answers out of what a server sends.
#[derive(Debug)]
pub(super) struct Removals {
    answers: Frames,
    /// The groups that the server has not answered to the end. The last one is not sent to its end.
    groups: VecDeque<Group>,
    fate: Fate,
    /// A description of columns, as far as it has come, and what came behind it.
    held: BytesMut,
    /// Where the last description begins in it.
    description_at: usize,
    has_new_types: bool,
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
            fate: Fate::default(),
            held: BytesMut::new(),
            description_at: 0,
            has_new_types: false,
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

    /// Records that the group that is being sent describes a statement and runs it, and that the driver knows
    /// it with columns of these `types`.
    pub(super) fn expect_types(&mut self, types: Vec<Oid>) {
        if let Some(last) = self.groups.back_mut() {
            last.types = Some(types);
        }
    }

    /// Whether types were taken out since the last call.
    pub(super) fn take_new_types(&mut self) -> bool {
        std::mem::take(&mut self.has_new_types)
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
                self.fate = self.fate(part.kind);
                self.description_at = self.held.len();
            }
            let is_described = self.fate == Fate::Described;
            if is_described || self.fate == Fate::Passed && !self.held.is_empty() {
                self.held.extend_from_slice(&bytes[at..part.to]);
            } else if self.fate == Fate::Passed {
                if kept < at {
                    bytes.copy_within(at..part.to, kept);
                }
                kept += part.to - at;
            }
            if is_described && part.is_last {
                let types = self.groups.front().and_then(|group| group.types.as_deref());
                let description = &mut self.held[self.description_at..];
                self.has_new_types |= remove_types(description, types.unwrap_or_default());
                self.fate = Fate::Passed;
            }
            at = part.to;
        }
        buf.set_filled(from + kept);
        self.release(buf);
    }

    /// Passes on what was held back, as much as there is room for.
    pub(super) fn release(&mut self, buf: &mut ReadBuf<'_>) {
        if self.fate != Fate::Described {
            let len = self.held.len().min(buf.remaining());
            buf.put_slice(&self.held.split_to(len));
        }
    }

    /// What happens to the message of this type, which comes next.
    fn fate(&mut self, kind: u8) -> Fate {
        let last = self.groups.len() == 1;
        let Some(group) = self.groups.front_mut() else {
            return Fate::Passed;
        };
        match kind {
            // ReadyForQuery. CopyInResponse: the server ignores the Sync that was sent before the data.
            b'Z' | b'G' => {
                if !last {
                    self.groups.pop_front();
                }
                Fate::Passed
            }
            // ParseComplete, BindComplete, CommandComplete.
            b'1' | b'2' | b'C' if group.answers > 0 => {
                group.answers -= 1;
                Fate::Removed
            }
            // RowDescription.
            b'T' if group.types.is_some() => Fate::Described,
            // ErrorResponse: the server skips the rest of the group.
            b'E' => {
                group.answers = 0;
                self.refused.extend(group.name.take());
                Fate::Passed
            }
            _ => Fate::Passed,
        }
    }
}

/// Replaces the types in `description`, a RowDescription, that are neither PostgreSQL's own nor among `types`,
/// by one that no value can be read as. Returns whether there were any.
fn remove_types(description: &mut [u8], types: &[Oid]) -> bool {
    let mut has_new = false;
    // A type, a length and the number of columns come before the first column.
    let mut at = 7;
    while let Some(name) = description.get(at..)
        && let Some(name_len) = name.iter().position(|byte| *byte == 0)
    {
        // The column's table and its number there.
        at += name_len + 1 + 6;
        let Some(oid) = description.get_mut(at..).and_then(<[_]>::first_chunk_mut) else {
            break;
        };
        let found = Oid::from_be_bytes(*oid);
        if Type::from_oid(found).is_none() && !types.contains(&found) {
            *oid = Type::ANY.oid().to_be_bytes();
            has_new = true;
        }
        // The type, its size and modifier, and a format.
        at += 4 + 2 + 4 + 2;
    }
    has_new
}

#[cfg(test)]
mod tests {
    use super::super::frames::message;
    use super::*;

    /// Passes `bytes` on in pieces of `piece` bytes. Returns what is left of them.
    fn read(removals: &mut Removals, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut room = [0; 2048];
            let mut buf = ReadBuf::new(&mut room);
            buf.put_slice(b"before");
            buf.put_slice(piece);
            removals.remove(&mut buf, 6);
            while !removals.held.is_empty() && removals.fate != Fate::Described {
                removals.release(&mut buf);
            }
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

    #[test]
    fn types_that_a_statement_was_not_described_with_are_taken_out_of_its_answer() {
        let describe = |oids: &[Oid]| {
            let number = u16::try_from(oids.len()).unwrap().to_be_bytes();
            let column =
                |oid: &Oid| [b"name\0tablec", &oid.to_be_bytes()[..], b"sizmodfo"].concat();
            let columns: Vec<_> = oids.iter().flat_map(column).collect();
            message(b'T', &[&number[..], &columns].concat())
        };
        let rows = [answer(b'2'), answer(b'D'), answer(b'D'), answer(b'C')].concat();
        let group = |columns: Vec<u8>| [answer(b'1'), columns, rows.clone(), answer(b'Z')].concat();
        let (any, own) = (Type::ANY.oid(), Type::INT8.oid());
        let (old, new) = (describe(&[1, own, 99]), describe(&[1, 2000, own, 100, 99]));
        let known = describe(&[1, any, own, any, 99]);
        // What other statements on their way were described with is nothing to an answer.
        let many: Vec<Oid> = (10_000..20_000).collect();
        for piece in 1..700 {
            let mut removals = Removals::new(false);
            read(&mut removals, &answer(b'Z'), 9);
            let (mut came, mut left) = (Vec::new(), Vec::new());
            for (types, sent, passed) in [
                (Some(vec![99, 1]), &old, &old),
                (None, &new, &new),
                (Some(many.clone()), &describe(&[]), &describe(&[])),
                (Some(vec![1, 99]), &new, &known),
                (Some(vec![1, 99, 100, 2000]), &new, &new),
                (
                    Some(many.clone()),
                    &describe(&[15_000]),
                    &describe(&[15_000]),
                ),
                (Some(vec![]), &old, &describe(&[any, own, any])),
            ] {
                if let Some(types) = types {
                    removals.expect_types(types);
                }
                removals.record_sent(b'S');
                came.extend(group(sent.clone()));
                left.extend(group(passed.clone()));
            }
            assert_eq!(read(&mut removals, &came, piece), left);
            assert!(removals.take_new_types() && !removals.take_new_types());
        }
    }

    #[test]
    fn what_is_held_back_is_passed_on_as_there_is_room() {
        let mut removals = Removals::new(false);
        read(&mut removals, &answer(b'Z'), 9);
        removals.expect_types(vec![0]);
        let came = [message(b'T', &[0; 30]), answer(b'D')].concat();
        let mut left: Vec<u8> = Vec::new();
        for piece in came.chunks(10) {
            let mut room = [0; 10];
            let mut buf = ReadBuf::new(&mut room);
            buf.put_slice(piece);
            removals.remove(&mut buf, 0);
            left.extend(buf.filled());
        }
        assert!(left.len() < came.len());
        while left.len() < came.len() {
            let mut room = [0; 10];
            let mut buf = ReadBuf::new(&mut room);
            removals.release(&mut buf);
            left.extend(buf.filled());
        }
        assert_eq!(left, came);
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
