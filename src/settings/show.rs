//! Shows the settings in force as TOML, each with its origin.

use std::fmt;

use super::Loaded;
use super::error::Origin;
use super::section::{Section, inherited_from};

impl fmt::Display for Loaded {
    /// TOML that `--config` accepts, except that secrets are masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries = Vec::new();
        self.settings.entries("", &mut entries);
        let mut open = "";
        for entry in &entries {
            let (section, name) = entry.path.rsplit_once('.').unwrap_or(("", &entry.path));
            if section != open {
                let gap = if open.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{section}]")?;
                open = section;
            }
            match &entry.value {
                Some(value) => write!(f, "{name} = {value}")?,
                None => write!(f, "# {name} is not set")?,
            }
            match (self.origins.get(&entry.path), inherited_from(&entry.path)) {
                (None, Some(base)) => writeln!(f, " # as {base}")?,
                (Some(Origin::BuiltIn) | None, _) => writeln!(f)?,
                (Some(origin), _) => writeln!(f, " # {origin}")?,
            }
        }
        Ok(())
    }
}
