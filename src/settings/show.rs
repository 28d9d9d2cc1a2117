//! Shows the settings in force as TOML, each with its origin.

use std::fmt;

use toml::Value;

use super::Loaded;
use super::layers::Origin;
use super::section::{Form, inherited_from};

impl fmt::Display for Loaded {
    /// TOML that `--config` accepts, except that secrets are masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open = String::new();
        for key in &self.keys {
            let (section, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
            if section != open {
                let gap = if open.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{section}]")?;
                open = section.into();
            }
            let own = self.values.get(&key.path);
            let base = inherited_from(&key.path).filter(|_| own.is_none());
            let base = base.filter(|base| self.values.contains_key(base));
            let located = own.or_else(|| self.values.get(base.as_ref()?));
            let value = located.map(|located| &located.value);
            match value.filter(|value| value.as_str() != Some("")) {
                None => write!(f, "# {name} is not set")?,
                // A number in an environment variable needs no quotes in TOML.
                Some(Value::String(text)) if key.form == Form::Bare && is_toml(text) => {
                    write!(f, "{name} = {text}")?;
                }
                Some(value) => write!(f, "{name} = {value}")?,
            }
            match (base, located.map(|located| &located.origin)) {
                (Some(base), _) => writeln!(f, " # as {base}")?,
                (None, None | Some(Origin::BuiltIn)) => writeln!(f)?,
                (None, Some(origin)) => writeln!(f, " # {origin}")?,
            }
        }
        Ok(())
    }
}

fn is_toml(text: &str) -> bool {
    text.parse::<Value>().is_ok()
}
