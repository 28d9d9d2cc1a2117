//! Processor time, as the kernel counts it.

use std::fs;

/// The ticks of `/proc` in a second, which are 100 on every common Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// One line of `/proc/<pid>/stat`.
struct Stat {
    parent: i32,
    /// The ticks of the process itself.
    own: u64,
    /// The ticks of its children that have ended.
    ended: u64,
}

/// The processor time of one process, in seconds.
pub(super) fn seconds_of(pid: i32) -> f64 {
    stat(pid).map_or(0.0, |stat| stat.own as f64 / TICKS_PER_SECOND)
}

/// The processor time of one process and its children, ended ones included, in seconds.
pub(super) fn seconds_with_children(pid: i32) -> f64 {
    let root = stat(pid).map_or(0, |stat| stat.own + stat.ended);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?));
    let children = others.filter(|stat| stat.parent == pid);
    (root + children.map(|stat| stat.own).sum::<u64>()) as f64 / TICKS_PER_SECOND
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(line: &str) -> Option<Stat> {
    // The name may have any characters. The state, field 3, follows it.
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own: number(14)? + number(15)?,
        ended: number(16)? + number(17)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_after_any_name() {
        let line = "7 (a) b) S 3 7 7 0 -1 4194304 1 2 3 4 50 6 700 80 20 0 1 0 9";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.own, stat.ended), (3, 56, 780));
    }
}
