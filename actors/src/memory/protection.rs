//! Which process the kernel kills first when memory runs out in spite of everything.
//!
//! The kernel kills the process with the most memory, shifted by its `oom_score_adj`. Hosts raise
//! theirs, and the server lowers its own where it may: losing a host costs a reload, losing the server
//! costs everything. Children inherit the value, so it is reset to 0 when each is started.

use std::fs;

use super::probe::System;

/// Half of the scale: the kernel kills the server only if it uses half of the machine's memory more
/// than every other process.
const SERVER_ADJUSTMENT: i32 = -500;

/// Whether the kernel kills other processes before the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// The value was lowered.
    Lowered {
        /// The value before.
        from: i32,
    },
    /// The server was started with a value that is low enough.
    AlreadyLow(i32),
    /// The value cannot be lowered, which takes `CAP_SYS_RESOURCE`. The text says why.
    Refused(String),
}

/// Lowers this process's `oom_score_adj`.
pub(super) fn protect_server(system: &System) -> Protection {
    let path = system.own("oom_score_adj");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Protection::Refused(format!("{}: {error}", path.display())),
    };
    let Ok(from) = text.trim().parse() else {
        return Protection::Refused(format!("{} is not a number", path.display()));
    };
    if from <= SERVER_ADJUSTMENT {
        return Protection::AlreadyLow(from);
    }
    match fs::write(&path, SERVER_ADJUSTMENT.to_string()) {
        Ok(()) => Protection::Lowered { from },
        Err(error) => Protection::Refused(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::fixture::Fixture;
    use super::*;

    #[test]
    fn the_value_is_lowered_where_allowed_and_never_raised() {
        let fixture = Fixture::new();
        let protect = || protect_server(&fixture.system());
        let value = || fs::read_to_string(fixture.path("proc/self/oom_score_adj")).unwrap();
        assert!(matches!(protect(), Protection::Refused(_)));
        fixture.write("proc/self/oom_score_adj", "200\n");
        assert_eq!(protect(), Protection::Lowered { from: 200 });
        assert_eq!(value(), "-500");
        assert_eq!(protect(), Protection::AlreadyLow(-500));
        fixture.write("proc/self/oom_score_adj", "-998\n");
        assert_eq!(protect(), Protection::AlreadyLow(-998));
        assert_eq!(value(), "-998\n");
        fixture.write("proc/self/oom_score_adj", "high\n");
        assert!(matches!(protect(), Protection::Refused(_)));
    }
}
