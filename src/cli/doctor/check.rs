//! One check, and the report of all.

use serde::Serialize;

use crate::cli::output::{self, Style, Tone, one_line};

/// What checks are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Group {
    Settings,
    Programs,
    Limits,
    Files,
    Servers,
    Address,
}

impl Group {
    const ALL: [Self; 6] = [
        Self::Settings,
        Self::Programs,
        Self::Limits,
        Self::Files,
        Self::Servers,
        Self::Address,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Settings => "Settings",
            Self::Programs => "Programs",
            Self::Limits => "Limits of this machine",
            Self::Files => "Files",
            Self::Servers => "Other servers",
            Self::Address => "Headroom's own addresses",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    /// The server works, but not as well as it could.
    Warning,
    /// Something that the settings ask for does not work.
    Failure,
    /// It could not be checked.
    Skipped,
}

impl Outcome {
    fn shown(self) -> (Tone, &'static str) {
        match self {
            Self::Ok => (Tone::Good, "ok"),
            Self::Warning => (Tone::Warning, "warning"),
            Self::Failure => (Tone::Bad, "FAILURE"),
            Self::Skipped => (Tone::Plain, "skipped"),
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) group: Group,
    /// What was checked.
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) found: String,
    /// What does not work because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) would_fail: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Check {
    fn new(group: Group, name: &str, outcome: Outcome, found: String) -> Self {
        Self {
            group,
            name: name.to_owned(),
            outcome,
            found,
            would_fail: None,
            remedy: None,
        }
    }

    pub(super) fn ok(group: Group, name: &str, found: impl Into<String>) -> Self {
        Self::new(group, name, Outcome::Ok, found.into())
    }

    pub(super) fn skipped(group: Group, name: &str, why: impl Into<String>) -> Self {
        Self::new(group, name, Outcome::Skipped, why.into())
    }

    /// A warning. [`Check::would_fail`] and [`Check::remedy`] complete it.
    pub(super) fn warning(group: Group, name: &str, found: impl Into<String>) -> Self {
        Self::new(group, name, Outcome::Warning, found.into())
    }

    /// A failure. [`Check::would_fail`] and [`Check::remedy`] complete it.
    pub(super) fn failure(group: Group, name: &str, found: impl Into<String>) -> Self {
        Self::new(group, name, Outcome::Failure, found.into())
    }

    /// Says what does not work because of it.
    pub(super) fn would_fail(mut self, what: impl Into<String>) -> Self {
        self.would_fail = Some(what.into());
        self
    }

    /// Says what to do.
    pub(super) fn remedy(mut self, what: impl Into<String>) -> Self {
        self.remedy = Some(what.into());
        self
    }

    /// A fault in the settings, whose text says what to do.
    pub(super) fn of_setting(fault: String) -> Self {
        Self::failure(Group::Settings, "valid", fault)
            .would_fail("`headroom serve` does not start, and a reload is refused")
            .remedy("correct the setting; `headroom check-config` shows all of them")
    }

    /// Something in the settings that has no effect, whose text says what to do.
    pub(super) fn of_warning(warning: String) -> Self {
        Self::warning(Group::Settings, "environment", warning)
            .would_fail("the server works as if it were not set")
    }

    /// The failure in one line.
    pub(super) fn fault(&self) -> Option<String> {
        let remedy = self.remedy.as_ref();
        let remedy = remedy.map_or(String::new(), |remedy| format!("; {remedy}"));
        (self.outcome == Outcome::Failure).then(|| format!("{}: {}{remedy}", self.name, self.found))
    }

    /// The checks of `group` panicked.
    pub(super) fn panicked(group: Group) -> Self {
        Self::failure(group, "all", "the checks ended with a panic")
            .would_fail("what the checks are about is not known")
            .remedy("report this fault of headroom, with the panic on standard error")
    }

    /// The checks of `group` did not end in time.
    pub(super) fn no_answer(group: Group) -> Self {
        Self::failure(group, "all", "the checks did not end in time")
            .would_fail("what the checks are about may hang as well")
            .remedy("look for a file system or a server that hangs")
    }
}

/// All checks.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The version of this program.
    version: &'static str,
    pub(super) failures: usize,
    pub(super) warnings: usize,
    skipped: usize,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.group);
        let count = |outcome| {
            checks
                .iter()
                .filter(|check| check.outcome == outcome)
                .count()
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            failures: count(Outcome::Failure),
            warnings: count(Outcome::Warning),
            skipped: count(Outcome::Skipped),
            checks,
        }
    }

    pub(super) fn has_failed(&self, group: Group) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|check| check.group == group && check.outcome == Outcome::Failure)
    }

    /// The report for people.
    pub(super) fn render(&self, style: Style) -> String {
        let names = self.checks.iter().map(|check| check.name.chars().count());
        let width = names.max().unwrap_or(0);
        let mut text = String::new();
        for group in Group::ALL {
            let mut checks = self.checks.iter().filter(|check| check.group == group);
            let Some(first) = checks.next() else {
                continue;
            };
            text.push_str(&style.paint(Tone::Strong, group.title()));
            text.push('\n');
            for check in std::iter::once(first).chain(checks) {
                line(&mut text, check, width, style);
            }
            text.push('\n');
        }
        let count = |number, tone, what| match number {
            0 => format!("0 {what}"),
            number => style.paint(tone, &format!("{number} {what}")),
        };
        text.push_str(&format!(
            "{}, {}, {} skipped, {}\n",
            count(self.failures, Tone::Bad, "failed"),
            count(self.warnings, Tone::Warning, "warned"),
            self.skipped,
            output::count(self.checks.len(), "check", "checks")
        ));
        text
    }
}

fn line(text: &mut String, check: &Check, width: usize, style: Style) {
    let (tone, outcome) = check.outcome.shown();
    let outcome = style.paint(tone, &format!("{outcome:7}"));
    let (name, found) = (one_line(&check.name), one_line(&check.found));
    text.push_str(&format!("  {outcome}  {name:width$}  {found}\n"));
    let more = [("would fail", &check.would_fail), ("remedy", &check.remedy)];
    for (what, more) in more {
        if let Some(more) = more {
            text.push_str(&format!("  {:7}  {what:>width$}: {}\n", "", one_line(more)));
        }
    }
}
