//! Which answers are removed first: S3-FIFO.
//!
//! An answer starts in a small queue. If nobody asks for it twice while it moves through, it is removed, and only its key is
//! remembered for a while. The others, and those whose key is remembered, go to the main queue, where each use earns one more
//! round. So a scan over many blocks, each asked for once, moves through the small queue and leaves the rest alone.
//!
//! From "FIFO queues are all you need for cache eviction", Yang and others, SOSP 2023. Here, queues are measured in bytes.

use std::collections::{HashSet, VecDeque};

use super::key::Key;

/// The part of the space that belongs to the small queue: one of so many.
const SMALL_SHARE: u64 = 10;

/// The most uses that count.
const USES_MAX: u8 = 3;

/// So many uses in the small queue lead to the main queue.
const USES_MIN: u8 = 2;

/// An answer's place in the queues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Tells an answer from an older one of the same key, which may still be in a queue.
    id: u64,
    bytes: u64,
    uses: u8,
    is_main: bool,
}

impl Place {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// An answer that does not hold any longer earns no more rounds.
    pub(super) fn forget_uses(&mut self) {
        self.uses = 0;
    }

    pub(super) fn count_use(&mut self) {
        self.uses = self.uses.saturating_add(1).min(USES_MAX);
    }
}

/// Gives the places of answers.
pub(super) trait Places {
    /// The place of an answer, if it is there.
    fn get(&mut self, key: &Key) -> Option<&mut Place>;
}

/// The order of removal.
#[derive(Debug, Default)]
pub(super) struct Queues {
    small: VecDeque<(Key, u64)>,
    main: VecDeque<(Key, u64)>,
    small_bytes: u64,
    main_bytes: u64,
    count: usize,
    next_id: u64,
    ghosts: Ghosts,
}

impl Queues {
    /// The bytes of all answers.
    pub(super) fn bytes(&self) -> u64 {
        self.small_bytes + self.main_bytes
    }

    /// Adds an answer.
    pub(super) fn add(&mut self, key: Key, bytes: u64) -> Place {
        let is_main = self.ghosts.remove(key);
        let id = self.next_id;
        self.next_id += 1;
        let (queue, queue_bytes) = self.queue(is_main);
        queue.push_back((key, id));
        *queue_bytes += bytes;
        self.count += 1;
        Place {
            id,
            bytes,
            uses: 0,
            is_main,
        }
    }

    /// Takes an answer out. What is left of it in its queue is skipped later.
    pub(super) fn remove(&mut self, place: Place) {
        let (_, queue_bytes) = self.queue(place.is_main);
        *queue_bytes -= place.bytes;
        self.count -= 1;
    }

    fn queue(&mut self, is_main: bool) -> (&mut VecDeque<(Key, u64)>, &mut u64) {
        match is_main {
            true => (&mut self.main, &mut self.main_bytes),
            false => (&mut self.small, &mut self.small_bytes),
        }
    }

    /// The next answer to remove, where all together may have `bytes_max`.
    pub(super) fn next_victim(&mut self, bytes_max: u64, places: &mut impl Places) -> Option<Key> {
        while !(self.small.is_empty() && self.main.is_empty()) {
            let from_main = self.small.is_empty()
                || (self.small_bytes <= bytes_max / SMALL_SHARE && !self.main.is_empty());
            let (queue, _) = self.queue(from_main);
            let (key, id) = queue.pop_front()?;
            let Some(place) = places.get(&key).filter(|place| place.id == id) else {
                continue;
            };
            match from_main {
                true if place.uses == 0 => return Some(key),
                true => {
                    place.uses -= 1;
                    self.main.push_back((key, id));
                }
                false if place.uses < USES_MIN => {
                    self.ghosts.add(key, self.count);
                    return Some(key);
                }
                false => {
                    (place.uses, place.is_main) = (0, true);
                    self.small_bytes -= place.bytes;
                    self.main_bytes += place.bytes;
                    self.main.push_back((key, id));
                }
            }
        }
        None
    }

    /// Whether so many answers were taken out that the queues should be swept.
    pub(super) fn is_littered(&self) -> bool {
        self.small.len() + self.main.len() > 2 * self.count + 64
    }

    /// Forgets what is left of answers that were taken out.
    pub(super) fn sweep(&mut self, is_there: impl Fn(&Key) -> Option<u64>) {
        self.small.retain(|(key, id)| is_there(key) == Some(*id));
        self.main.retain(|(key, id)| is_there(key) == Some(*id));
    }

    /// Gives memory back that is not used any longer.
    pub(super) fn shrink(&mut self) {
        self.small.shrink_to_fit();
        self.main.shrink_to_fit();
        if self.count == 0 {
            self.ghosts = Ghosts::default();
        }
    }
}

/// The keys of answers that were removed from the small queue, shortened to 8 bytes: at most as many as there are answers.
#[derive(Debug, Default)]
struct Ghosts {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Ghosts {
    fn short(key: Key) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn add(&mut self, key: Key, count_max: usize) {
        let short = Self::short(key);
        if self.known.insert(short) {
            self.order.push_back(short);
        }
        while self.order.len() > count_max.max(16) {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// Forgets `key`. Returns whether it was known. It keeps its turn in the order, so it may be forgotten again too early.
    fn remove(&mut self, key: Key) -> bool {
        self.known.remove(&Self::short(key))
    }
}
