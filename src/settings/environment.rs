//! Environment variables: which are settings, and which only look like some.
//!
//! A setting that is set and has no effect is the worst outcome. So a variable that spells a setting in another way is
//! refused, and any other one that begins like a setting is named.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::layers::nearest;
use super::section::Key;

/// The prefix of environment variables that are settings.
const SETTING: &str = "HEADROOM__";

/// How variables begin that are meant for Headroom, in whatever case.
const OURS: &str = "HEADROOM_";

/// Variables of Headroom that are no settings: of commands, of the build, and of tests.
const OTHERS: [&str; 5] = [
    "HEADROOM_CACHE",
    "HEADROOM_COMMIT",
    "HEADROOM_LARGEST_UPLOAD",
    "HEADROOM_SCREENSHOTS",
    "HEADROOM_URL",
];

/// The prefix of the variables of the load test.
const LOAD_TEST: &str = "HEADROOM_LOADTEST_";

/// Environment variables. They are an argument, so that tests need not change their own environment.
pub type Environment = BTreeMap<OsString, OsString>;

/// Whether a variable begins like those of Headroom.
pub(crate) fn begins_like_ours(name: &OsStr) -> bool {
    let start = name.as_bytes().get(..OURS.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(OURS.as_bytes()))
}

/// What a variable is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Variable<'a> {
    /// The value of the key whose path this is.
    Setting {
        name: &'a str,
        path: String,
        text: &'a str,
    },
    /// A setting that is written in a wrong way.
    Fault(String),
    /// It begins like a setting, and has no effect.
    Unknown(String),
    /// It is meant for something else.
    Other,
}

impl<'a> Variable<'a> {
    pub(super) fn read(keys: &[Key], name: &'a OsStr, value: &'a OsStr) -> Self {
        if !begins_like_ours(name) {
            return Self::Other;
        }
        let Some(name) = name.to_str() else {
            return Self::Fault(format!(
                "environment variable {name:?}: its name is not UTF-8"
            ));
        };
        if let Some(rest) = name.strip_prefix(SETTING) {
            return match value.to_str() {
                Some(text) => Self::Setting {
                    name,
                    path: rest.to_ascii_lowercase().replace("__", "."),
                    text,
                },
                None => Self::Fault(format!(
                    "environment variable {name}: its value is not UTF-8"
                )),
            };
        }
        let is_other = OTHERS.contains(&name) || name.starts_with(LOAD_TEST);
        if is_other || is_of_orchestrator(name, value) {
            return Self::Other;
        }
        let known = names_of(keys);
        let folded = folded(name);
        if let Some((_, right)) = known.iter().find(|(known, _)| *known == folded) {
            return Self::Fault(format!(
                "environment variable {name} is not read: the name of this setting is {right}"
            ));
        }
        let near = nearest(&folded, known.iter().map(|(known, _)| known.as_str()));
        let near = near
            .and_then(|near| known.iter().find(|(known, _)| known == near))
            .or_else(|| with_all_words(&folded, &known));
        let advice = near.map_or(String::new(), |(_, right)| {
            format!("; did you mean {right}?")
        });
        let start = name.get(..SETTING.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(SETTING)) {
            return Self::Fault(format!(
                "environment variable {name} is not read: settings begin with {SETTING}{advice}"
            ));
        }
        Self::Unknown(format!(
            "environment variable {name} has no effect: it is no setting{advice}"
        ))
    }
}

/// The names of the variables of all keys, except those with names that the operator gives; each also in the form in which
/// the spellings of one name are equal.
fn names_of(keys: &[Key]) -> Vec<(String, String)> {
    let keys = keys.iter().filter(|key| !key.path.contains('*'));
    let names = keys.flat_map(|key| {
        let name = key.path.to_ascii_uppercase().replace('.', "__");
        let file = key.secret.then(|| format!("{SETTING}{name}_FILE"));
        std::iter::once(format!("{SETTING}{name}")).chain(file)
    });
    names.map(|name| (folded(&name), name)).collect()
}

/// The words of a name after the first one, in one case and with one underscore between them.
fn folded(name: &str) -> String {
    let words = name.split('_').filter(|word| !word.is_empty());
    let words: Vec<_> = words.skip(1).map(str::to_ascii_uppercase).collect();
    words.join("_")
}

/// The setting of `known` with the fewest words among those that have all words of `folded`, in their order. None if several
/// have as few.
fn with_all_words<'a>(folded: &str, known: &'a [(String, String)]) -> Option<&'a (String, String)> {
    let has_all = |(name, _): &&(String, String)| {
        let mut words = name.split('_');
        let mut wanted = folded.split('_');
        wanted.all(|wanted| words.any(|word| word == wanted))
    };
    let count = |name: &str| name.split('_').count();
    let mut found: Vec<_> = known.iter().filter(has_all).collect();
    found.sort_by_key(|(name, _)| count(name));
    match found[..] {
        [(first, _), (second, _), ..] if count(first) == count(second) => None,
        [first, ..] => Some(first),
        [] => None,
    }
}

/// Whether Kubernetes or Docker sets it for each service that is called `headroom` or begins so. Docker's links also have a
/// name, and the variables of the other container.
fn is_of_orchestrator(name: &str, value: &OsStr) -> bool {
    let is_address = value.to_str().is_some_and(|value| value.contains("://"));
    name == "HEADROOM_NAME"
        || name.starts_with("HEADROOM_ENV_")
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_address)
        || ["_TCP", "_UDP", "_SCTP"].into_iter().any(|protocol| {
            let rest = name.split_once("_PORT_").map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.contains(protocol))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::keys;

    #[track_caller]
    fn assert_read(name: &str, value: &str, expected: Variable<'_>) {
        let found = Variable::read(&keys(), name.as_ref(), value.as_ref());
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn another_spelling_of_a_setting_is_refused_with_the_right_one() {
        for (wrong, right) in [
            ("HEADROOM_MEMORY_LIMIT", "HEADROOM__MEMORY__LIMIT"),
            ("Headroom__Memory__Limit", "HEADROOM__MEMORY__LIMIT"),
            ("headroom_memory_limit", "HEADROOM__MEMORY__LIMIT"),
            ("HEADROOM_POSTGRES_URL_FILE", "HEADROOM__POSTGRES__URL_FILE"),
        ] {
            let text = format!(
                "environment variable {wrong} is not read: the name of this setting is {right}"
            );
            assert_read(wrong, "x", Variable::Fault(text));
        }
        let text = "environment variable headroom__memory__limti is not read: settings begin with HEADROOM__; \
                    did you mean HEADROOM__MEMORY__LIMIT?";
        assert_read(
            "headroom__memory__limti",
            "x",
            Variable::Fault(text.to_owned()),
        );
    }

    #[test]
    fn a_variable_that_begins_like_a_setting_is_named_with_the_nearest_one() {
        let text = "environment variable HEADROOM_MEMORY_LIMTI has no effect: it is no setting; \
                    did you mean HEADROOM__MEMORY__LIMIT?";
        assert_read(
            "HEADROOM_MEMORY_LIMTI",
            "x",
            Variable::Unknown(text.to_owned()),
        );
        for name in ["HEADROOM_QQ", "HEADROOM_", "HEADROOM_DIR"] {
            let text = format!("environment variable {name} has no effect: it is no setting");
            assert_read(name, "x", Variable::Unknown(text));
        }
    }

    #[test]
    fn words_that_are_missing_in_the_name_of_a_setting_are_found() {
        let text = "environment variable HEADROOM_LISTEN has no effect: it is no setting; \
                    did you mean HEADROOM__SERVER__LISTEN?";
        assert_read("HEADROOM_LISTEN", "x", Variable::Unknown(text.to_owned()));
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        for (name, value) in [
            ("HOME", "/root"),
            ("HEADROOMS", "x"),
            ("HEADROOM_URL", "http://x"),
            ("HEADROOM_CACHE", "/x"),
            ("HEADROOM_LOADTEST_PLAN", "x"),
            ("HEADROOM_SERVICE_HOST", "10.0.0.1"),
            ("HEADROOM_SERVICE_PORT_HTTP", "80"),
            ("HEADROOM_PORT", "tcp://10.0.0.1:80"),
            ("HEADROOM_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("HEADROOM_NAME", "/web/headroom"),
            ("HEADROOM_ENV_MEMORY_LIMIT", "1GiB"),
        ] {
            assert_read(name, value, Variable::Other);
        }
    }

    #[test]
    fn what_is_not_utf_8_is_refused_without_its_value() {
        let keys = keys();
        let bytes = OsStr::from_bytes(b"secret\xff");
        let found = Variable::read(&keys, "HEADROOM__POSTGRES__URL".as_ref(), bytes);
        let text = "environment variable HEADROOM__POSTGRES__URL: its value is not UTF-8";
        assert_eq!(found, Variable::Fault(text.to_owned()));
        let name = OsStr::from_bytes(b"HEADROOM__\xff");
        let found = Variable::read(&keys, name, "x".as_ref());
        let text = r#"environment variable "HEADROOM__\xFF": its name is not UTF-8"#;
        assert_eq!(found, Variable::Fault(text.to_owned()));
    }
}
