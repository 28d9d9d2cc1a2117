//! What can be loaded: names, dependencies, and the check that they make sense together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::kernel::Resource;

/// Why resources do not make a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// Two resources have one name.
    #[error("there are two resources named {0}")]
    Duplicate(String),
    /// A dependency is not in the catalogue.
    #[error("{resource} depends on {dependency}, which is not in the catalogue")]
    UnknownDependency {
        /// Who depends on it.
        resource: String,
        /// What is missing.
        dependency: String,
    },
    /// Resources depend on each other in a circle, so none could be loaded first.
    #[error("dependencies go round in a circle: {}", .0.join(" -> "))]
    Cycle(
        /// The circle; its first name is repeated at the end.
        Vec<String>,
    ),
}

/// Resources whose dependencies are all known and free of cycles.
#[derive(Clone, Default)]
pub struct Catalogue {
    resources: BTreeMap<String, Resource>,
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.resources.keys()).finish()
    }
}

impl Catalogue {
    /// Checks `resources` and makes a catalogue of them, in whatever order they come.
    ///
    /// # Errors
    /// On names that occur twice, unknown dependencies, and cycles.
    pub fn build(resources: Vec<Resource>) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::default();
        for resource in resources {
            let name = resource.name.clone();
            if catalogue.resources.insert(name.clone(), resource).is_some() {
                return Err(CatalogueError::Duplicate(name));
            }
        }
        for name in catalogue.resources.keys() {
            catalogue.check(name)?;
        }
        Ok(catalogue)
    }

    /// Adds a resource, or replaces the one of its name.
    ///
    /// # Errors
    /// On unknown dependencies and cycles; the catalogue then stays as it was.
    pub fn insert(&mut self, resource: Resource) -> Result<(), CatalogueError> {
        let name = resource.name.clone();
        let before = self.resources.insert(name.clone(), resource);
        let checked = self.check(&name);
        if checked.is_err() {
            match before {
                Some(before) => self.resources.insert(name, before),
                None => self.resources.remove(&name),
            };
        }
        checked
    }

    /// Takes a resource out. Callers see to it that nothing depends on it.
    pub(super) fn remove(&mut self, name: &str) {
        self.resources.remove(name);
    }

    /// All resources, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// The names of those that depend on `name` directly.
    pub fn dependents(&self, name: &str) -> Vec<String> {
        self.iter()
            .filter(|resource| resource.depends_on.iter().any(|it| it == name))
            .map(|resource| resource.name.clone())
            .collect()
    }

    /// Follows the dependencies of `name` to their ends.
    fn check(&self, name: &str) -> Result<(), CatalogueError> {
        // Each step is a resource and how many of its dependencies were followed already. A loop
        // instead of recursion: the catalogue's depth comes from outside.
        let mut path: Vec<(&str, usize)> = vec![(name, 0)];
        let mut sound: BTreeSet<&str> = BTreeSet::new();
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            let Some(dependency) = self
                .resources
                .get(at)
                .and_then(|resource| resource.depends_on.get(*next))
            else {
                sound.insert(at);
                path.pop();
                continue;
            };
            *next += 1;
            if !self.resources.contains_key(dependency) {
                return Err(CatalogueError::UnknownDependency {
                    resource: at.to_owned(),
                    dependency: dependency.clone(),
                });
            }
            if let Some(start) = path.iter().position(|(on, _)| on == dependency) {
                let circle = path[start..].iter().map(|(on, _)| (*on).to_owned());
                return Err(CatalogueError::Cycle(
                    circle.chain([dependency.clone()]).collect(),
                ));
            }
            if !sound.contains(dependency.as_str()) {
                path.push((dependency, 0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::double::Scripted;
    use super::*;

    fn resource(name: &str, depends_on: &[&str]) -> Resource {
        Scripted::new().resource(name, depends_on)
    }

    fn refusal(resources: Vec<Resource>) -> String {
        Catalogue::build(resources).unwrap_err().to_string()
    }

    #[test]
    fn cycles_are_refused_and_named_in_full() {
        assert_eq!(
            refusal(vec![
                resource("start", &["a"]),
                resource("a", &["b"]),
                resource("b", &["c"]),
                resource("c", &["a"]),
            ]),
            "dependencies go round in a circle: a -> b -> c -> a"
        );
        assert_eq!(
            refusal(vec![resource("a", &["a"])]),
            "dependencies go round in a circle: a -> a"
        );
    }

    #[test]
    fn duplicates_and_unknown_dependencies_are_refused() {
        assert_eq!(
            refusal(vec![resource("a", &[]), resource("a", &[])]),
            "there are two resources named a"
        );
        assert_eq!(
            refusal(vec![resource("a", &["nowhere"])]),
            "a depends on nowhere, which is not in the catalogue"
        );
    }

    #[test]
    fn a_diamond_is_no_cycle() {
        let resources = vec![
            resource("top", &["left", "right"]),
            resource("left", &["base"]),
            resource("right", &["base"]),
            resource("base", &[]),
        ];
        assert!(Catalogue::build(resources).is_ok());
    }

    #[test]
    fn a_deep_chain_does_not_overflow_the_stack() {
        let chain = (0..10_000).map(|n| {
            let next = format!("{}", n + 1);
            let depends_on: &[&str] = if n < 9_999 { &[next.as_str()] } else { &[] };
            let mut resource = resource("", depends_on);
            resource.name = n.to_string();
            resource
        });
        let mut catalogue = Catalogue {
            resources: chain.map(|it| (it.name.clone(), it)).collect(),
        };
        assert!(catalogue.check("0").is_ok());
        assert!(catalogue.insert(resource("9999", &["0"])).is_err());
    }

    #[test]
    fn a_refused_insert_leaves_the_catalogue_as_it_was() {
        let mut catalogue =
            Catalogue::build(vec![resource("a", &[]), resource("b", &["a"])]).unwrap();
        let circle = catalogue.insert(resource("a", &["b"]));
        assert_eq!(
            circle.unwrap_err().to_string(),
            "dependencies go round in a circle: a -> b -> a"
        );
        assert!(catalogue.insert(resource("c", &["nowhere"])).is_err());
        assert_eq!(catalogue.iter().count(), 2);
        assert_eq!(catalogue.dependents("a"), ["b"]);
        assert!(catalogue.dependents("b").is_empty());
    }
}
