//! Sections with names that the operator gives, such as those of chains.
//!
//! In the list of all keys, `*` stands for such a name. A list of tables that have a `name` is another way to write them.

use std::collections::BTreeMap;

use super::section::{Key, Node, Source, join};

/// Completes "must be …".
pub(crate) const NAME: &str = "made of lower-case letters, digits and '-', at most 64";

/// The longest name.
const NAME_MAX: usize = 64;

/// What stands for any name.
const ANY: &str = "*";

/// Values by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Map<T>(pub BTreeMap<String, T>);

impl<T: Node> Node for Map<T> {
    fn read(path: &str, source: &mut Source) -> Option<Self> {
        let mut map = Some(BTreeMap::new());
        // All are read, also after the first invalid one.
        for name in source.names(path) {
            let value = T::read(&join(path, &name), source);
            map = map.zip(value).map(|(mut map, value)| {
                map.insert(name, value);
                map
            });
        }
        map.map(Self)
    }

    fn changes(&self, newer: &Self, path: &str, changed: &mut Vec<String>) {
        for (name, value) in &self.0 {
            match newer.0.get(name) {
                Some(newer) => value.changes(newer, &join(path, name), changed),
                None => changed.push(join(path, name)),
            }
        }
        let added = newer.0.keys().filter(|name| !self.0.contains_key(*name));
        changed.extend(added.map(|name| join(path, name)));
    }
}

impl Source {
    /// The names of the values below `path`.
    fn names(&self, path: &str) -> Vec<String> {
        if self.lists_keys {
            return vec![ANY.into()];
        }
        let prefix = format!("{path}.");
        let below = self.values.range(prefix.clone()..).map(|(path, _)| path);
        let below = below.map_while(|path| path.strip_prefix(&prefix));
        let mut names: Vec<_> = below
            .map(|rest| rest.split('.').next().unwrap_or(rest).to_owned())
            .collect();
        // They are sorted, except that other characters come before the dot.
        names.sort();
        names.dedup();
        names
    }
}

/// Whether `text` can be a name.
pub(crate) fn is_name(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_of_name)
}

/// Whether `path` is `pattern`, with a name for each `*`.
pub(crate) fn fits(pattern: &str, path: &str) -> bool {
    rest(pattern, path, is_name) == Some("")
}

/// What `pattern` has below the section `path`.
pub(crate) fn after<'a>(pattern: &'a str, path: &str) -> Option<&'a str> {
    rest(pattern, path, is_name).filter(|rest| !rest.is_empty())
}

/// What `pattern` has after `path`, where each `*` fits a name. `None` if it does not begin with `path`.
fn rest<'a>(mut pattern: &'a str, path: &str, is_name: fn(&str) -> bool) -> Option<&'a str> {
    for name in path.split('.') {
        if pattern.is_empty() {
            return None;
        }
        let (first, others) = pattern.split_once('.').unwrap_or((pattern, ""));
        if first != name && !(first == ANY && is_name(name)) {
            return None;
        }
        pattern = others;
    }
    Some(pattern)
}

/// `path` with `-` in place of `_` in its names, if one of `keys` is there then.
pub(crate) fn named_by_variable<'a>(
    mut keys: impl Iterator<Item = &'a Key>,
    path: &str,
) -> Option<String> {
    keys.find_map(|key| {
        let mut pattern = key.path.split('.');
        let names = path.split('.').map(|name| match pattern.next() {
            Some(ANY) => name.replace('_', "-"),
            _ => name.to_owned(),
        });
        let path = names.collect::<Vec<_>>().join(".");
        key.is_at(&path).then_some(path)
    })
}

/// The name in `path` because of which it is no key and no section.
pub(crate) fn wrong_name<'a>(keys: &[Key], path: &'a str) -> Option<&'a str> {
    let mut keys = keys.iter();
    let key = keys.find(|key| rest(&key.path, path, |_| true).is_some())?;
    let mut names = key.path.split('.').zip(path.split('.'));
    names.find_map(|(first, name)| (first == ANY && !is_name(name)).then_some(name))
}

/// `pattern` with the names of `path` in it.
pub(crate) fn like(pattern: &str, path: &str) -> String {
    let mut names = path.split('.');
    let filled = pattern.split('.').map(|first| match names.next() {
        Some(name) if first == ANY => name,
        _ => first,
    });
    filled.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_fits_one_name() {
        for (pattern, path, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*.b", "a.x-1.b", true),
            ("a.*.b", "a.X.b", false),
            ("a.*.b", "a..b", false),
            ("a.*.b", "a.x.y.b", false),
            ("a.*", "a.x", true),
            ("a.*", "a", false),
            ("a", "a.x", false),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
        assert_eq!(after("a.*.b.c", "a.x"), Some("b.c"));
        assert_eq!(after("a.*.b", "a"), Some("*.b"));
        assert_eq!(after("a.*.b", "a.x.b"), None);
        assert_eq!(after("ab.c", "a"), None);
    }
}
