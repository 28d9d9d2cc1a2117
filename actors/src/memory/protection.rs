//! Whom the kernel ends first when memory runs out in spite of everything.
//!
//! It picks the process with the most memory, shifted by each one's `oom_score_adj`. Model hosts
//! raise theirs, and the server lowers its own where it may: a host that is ended costs a reload,
//! the server costs everything. Children inherit the value, so each is put back to 0 when it is
//! started.

use std::fs;

use super::probe::System;

/// Half of the scale: the server goes after everything that does not use half of the memory more.
const SERVER_ADJUSTMENT: i32 = -500;

/// How the server is protected from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// It is now, and was not before.
    Lowered {
        /// The value that it was started with.
        from: i32,
    },
    /// Whoever started the server has given it at least as much protection.
    Given(i32),
    /// It may not be: only a process with `CAP_SYS_RESOURCE` may lower its value.
    Refused(String),
}

/// Protects this process from being ended when memory runs out.
pub(super) fn protect_server(system: &System) -> Protection {
    let path = system.own("oom_score_adj");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return Protection::Refused(format!("{}: {error}", path.display())),
    };
    let Ok(from) = text.trim().parse() else {
        return Protection::Refused(format!("{} is not understood", path.display()));
    };
    if from <= SERVER_ADJUSTMENT {
        return Protection::Given(from);
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
    fn the_server_is_protected_where_allowed_and_never_less_than_it_was() {
        let fixture = Fixture::new();
        let protect = || protect_server(&fixture.system());
        let value = || fs::read_to_string(fixture.path("proc/self/oom_score_adj")).unwrap();
        assert!(matches!(protect(), Protection::Refused(_)));
        fixture.write("proc/self/oom_score_adj", "200\n");
        assert_eq!(protect(), Protection::Lowered { from: 200 });
        assert_eq!(value(), "-500");
        assert_eq!(protect(), Protection::Given(-500));
        fixture.write("proc/self/oom_score_adj", "-998\n");
        assert_eq!(protect(), Protection::Given(-998));
        assert_eq!(value(), "-998\n");
        fixture.write("proc/self/oom_score_adj", "high\n");
        assert!(matches!(protect(), Protection::Refused(_)));
    }
}
