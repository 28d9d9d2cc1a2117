//! The resources that can be loaded, and the check of their dependencies.

use std::collections::BTreeMap;

use super::resource_names::ResourceNames;
use crate::kernel::Resource;

/// Why a resource cannot be added to the catalogue, or removed from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// A dependency is not in the catalogue.
    #[error("{resource} depends on {dependency}, which is not in the catalogue")]
    UnknownDependency {
        /// The resource with the dependency.
        resource: String,
        /// The missing dependency.
        dependency: String,
    },
    /// Resources depend on each other, so none can be loaded first.
    #[error("resources depend on each other in a cycle: {}", .0.join(" -> "))]
    Cycle(
        /// The names in the cycle. The first name is repeated at the end.
        Vec<String>,
    ),
    /// Other resources depend on it. Deregister those first.
    #[error("{name} is needed by {}", .dependents.join(", "))]
    Needed {
        /// The resource's name.
        name: String,
        /// The names of the resources that depend on it directly.
        dependents: Vec<String>,
    },
}

/// Resources by name. All of their dependencies are in the catalogue, and there is no cycle.
#[derive(Clone, Default)]
pub struct Catalogue {
    resources: BTreeMap<String, Resource>,
    names: ResourceNames,
    /// What operators have decided on pins, by resource. Where there is no entry, its settings decide.
    pins: BTreeMap<String, OperatorPin>,
}

/// An operator's decision that differs from the settings.
#[derive(Debug, Clone, Copy)]
struct OperatorPin {
    pinned: bool,
    /// What the settings said. The decision ends when they say something else.
    in_settings: bool,
}

impl Catalogue {
    /// Makes a catalogue of `resources`. A dependency comes before its dependents.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn build(resources: Vec<Resource>) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::default();
        for resource in resources {
            catalogue.insert(resource)?;
        }
        Ok(catalogue)
    }

    /// Adds a resource, or replaces the one with its name.
    ///
    /// # Errors
    /// On unknown dependencies and cycles. The catalogue is then unchanged.
    pub fn insert(&mut self, mut resource: Resource) -> Result<(), CatalogueError> {
        self.check(&resource)?;
        match self.pins.get(&resource.name) {
            Some(pin) if pin.in_settings == resource.pinned => resource.pinned = pin.pinned,
            _ => drop(self.pins.remove(&resource.name)),
        }
        self.names.insert(&resource.name);
        self.resources.insert(resource.name.clone(), resource);
        Ok(())
    }

    /// The names of the resources, which follow all later changes.
    pub fn names(&self) -> ResourceNames {
        self.names.clone()
    }

    /// Pins or unpins a resource, if there is one with this name, until its settings say something
    /// else than now.
    pub(super) fn set_pinned(&mut self, name: &str, pinned: bool) {
        let Some(resource) = self.resources.get_mut(name) else {
            return;
        };
        let earlier = self.pins.remove(name);
        let in_settings = earlier.map_or(resource.pinned, |pin| pin.in_settings);
        resource.pinned = pinned;
        if pinned != in_settings {
            let pin = OperatorPin {
                pinned,
                in_settings,
            };
            self.pins.insert(name.to_owned(), pin);
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name)
    }

    /// Removes a resource, if there is one with this name and nothing depends on it.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), CatalogueError> {
        let dependents = self.iter().filter(|resource| resource.needs(name));
        let dependents: Vec<_> = dependents.map(|it| it.name.clone()).collect();
        if dependents.is_empty() {
            self.resources.remove(name);
            self.names.remove(name);
            self.pins.remove(name);
            return Ok(());
        }
        let name = name.to_owned();
        Err(CatalogueError::Needed { name, dependents })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// Checks that all dependencies of `resource` exist, and that none leads back to it.
    fn check(&self, resource: &Resource) -> Result<(), CatalogueError> {
        // Maps each dependency that was found to the resource that was found to need it.
        let mut needed_by: BTreeMap<&str, &str> = BTreeMap::new();
        let mut open = vec![resource];
        while let Some(dependent) = open.pop() {
            for dependency in &dependent.depends_on {
                if *dependency == resource.name {
                    return Err(cycle(&resource.name, &dependent.name, &needed_by));
                }
                let Some(next) = self.resources.get(dependency) else {
                    return Err(CatalogueError::UnknownDependency {
                        resource: dependent.name.clone(),
                        dependency: dependency.clone(),
                    });
                };
                if needed_by.insert(dependency, &dependent.name).is_none() {
                    open.push(next);
                }
            }
        }
        Ok(())
    }
}

/// The cycle that is closed by `last`, which depends on `first`.
fn cycle(first: &str, last: &str, needed_by: &BTreeMap<&str, &str>) -> CatalogueError {
    let to_first = std::iter::successors(Some(last), |name| needed_by.get(name).copied());
    let backwards = std::iter::once(first).chain(to_first);
    let mut names: Vec<String> = backwards.map(str::to_owned).collect();
    names.reverse();
    CatalogueError::Cycle(names)
}

#[cfg(test)]
mod tests {
    use super::super::tests::scripted::Scripted;
    use super::*;

    fn resource(name: &str, depends_on: &[&str]) -> Resource {
        Scripted::new().resource(name, depends_on)
    }

    #[test]
    fn cycles_are_refused_and_named_in_full() {
        let chain = vec![
            resource("c", &[]),
            resource("b", &["c"]),
            resource("a", &["b"]),
            resource("start", &["a"]),
        ];
        let mut catalogue = Catalogue::build(chain).unwrap();
        assert_eq!(
            catalogue
                .insert(resource("c", &["a"]))
                .unwrap_err()
                .to_string(),
            "resources depend on each other in a cycle: c -> a -> b -> c"
        );
        assert_eq!(
            catalogue
                .insert(resource("x", &["x"]))
                .unwrap_err()
                .to_string(),
            "resources depend on each other in a cycle: x -> x"
        );
    }

    #[test]
    fn unknown_dependencies_are_refused() {
        let refused = Catalogue::build(vec![resource("a", &["nowhere"])]);
        assert_eq!(
            refused.err().unwrap().to_string(),
            "a depends on nowhere, which is not in the catalogue"
        );
    }

    #[test]
    fn a_diamond_is_no_cycle() {
        let resources = vec![
            resource("base", &[]),
            resource("left", &["base"]),
            resource("right", &["base"]),
            resource("top", &["left", "right"]),
        ];
        assert!(Catalogue::build(resources).is_ok());
    }

    #[test]
    fn a_deep_chain_does_not_overflow_the_stack() {
        let mut catalogue = Catalogue::default();
        for n in 0i32..10_000 {
            let before = format!("{}", n - 1);
            let depends_on: &[&str] = if n > 0 { &[before.as_str()] } else { &[] };
            let resource = resource(&n.to_string(), depends_on);
            // Not by `insert`, which would follow the whole chain each time.
            catalogue.resources.insert(resource.name.clone(), resource);
        }
        let circle = catalogue.insert(resource("0", &["9999"]));
        assert!(matches!(circle, Err(CatalogueError::Cycle(names)) if names.len() == 10_001));
    }

    #[test]
    fn a_refused_insert_leaves_the_catalogue_as_it_was() {
        let mut catalogue =
            Catalogue::build(vec![resource("a", &[]), resource("b", &["a"])]).unwrap();
        let circle = catalogue.insert(resource("a", &["b"]));
        assert_eq!(
            circle.unwrap_err().to_string(),
            "resources depend on each other in a cycle: a -> b -> a"
        );
        assert!(catalogue.insert(resource("c", &["nowhere"])).is_err());
        assert_eq!(catalogue.iter().count(), 2);
        let needed = catalogue.remove("a").unwrap_err();
        assert_eq!(needed.to_string(), "a is needed by b");
        assert_eq!(catalogue.iter().count(), 2);
        let names = catalogue.names();
        assert_eq!(catalogue.remove("b"), Ok(()));
        assert!(names.contains("a") && !names.contains("b") && !names.contains("c"));
        assert_eq!(catalogue.remove("a"), Ok(()));
    }
}
