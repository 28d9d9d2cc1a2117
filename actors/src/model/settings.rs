//! The settings of one version of a model, `model.toml` beside `model.pt`, and those for all of its versions, `model.toml`
//! beside the versions' folders.

use std::time::Duration;

use headroom_model_protocol::{Datatype, InputKind, Scalar, ScalarKind};
use serde::{Deserialize, Deserializer};

/// Instances at most. Each is a process.
const INSTANCES_MAX: u32 = 64;

/// Characters of a line that an error shows at most.
const LINE_SHOWN_MAX: usize = 80;

/// One model's settings. Every key is optional.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// A description for people. Headroom does not use it.
    pub description: String,
    /// Host processes that serve the model in parallel.
    pub instances: u32,
    /// Threads that one forward may use.
    pub threads: u32,
    /// How long it stays loaded after its last use; `models.ttl` when missing.
    pub ttl: Option<Ttl>,
    /// Never evicted, and not unloaded when idle.
    pub pinned: bool,
    /// Rows (first dimension) of one request at most; 0 for any number.
    pub max_batch: u32,
    /// Whether it keeps state between calls. Requests of a sequence go to one instance; all others
    /// start with a reset state.
    pub stateful: bool,
    /// Whether TorchScript's graph executor optimises.
    pub optimize: bool,
    /// Whether it runs on zeros before its first request.
    pub warmup: bool,
    /// How long one forward may take before its process is killed.
    #[serde(deserialize_with = "duration")]
    pub deadline: Duration,
    /// The arguments of `forward`, in order. Without them the signature in the file applies.
    pub inputs: Vec<InputSetting>,
    /// The outputs, in order. Without them the outputs are named by their position.
    pub outputs: Vec<OutputSetting>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            description: String::new(),
            instances: 1,
            threads: 1,
            ttl: None,
            pinned: false,
            max_batch: 0,
            stateful: false,
            optimize: true,
            warmup: true,
            deadline: Duration::from_secs(30),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

/// Which version serves the requests that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionPolicy {
    /// The highest version when the model is found. A request to load the model moves these requests to the version that is
    /// the highest then, when it is loaded. They leave a version that cannot be loaded.
    #[default]
    Latest,
    /// This one.
    Specific(u64),
}

/// The settings for all versions of a model.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct AllVersions {
    version_policy: VersionPolicy,
}

impl VersionPolicy {
    /// Reads the settings for all versions of a model.
    ///
    /// # Errors
    /// The error names the key and the rule.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: AllVersions =
            toml::from_str(text).map_err(|error| SettingsError(with_line(text, &error)))?;
        match settings.version_policy {
            Self::Specific(0) => {
                let rule = "version_policy: a version is a whole number above zero";
                Err(SettingsError(rule.to_owned()))
            }
            policy => Ok(policy),
        }
    }
}

/// How long a model stays loaded without use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// For ever.
    Never,
    /// This long.
    After(Duration),
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self::Never);
        }
        let duration = humantime::parse_duration(&text).map_err(|error| {
            serde::de::Error::custom(format!(
                "{text:?} is neither \"never\" nor a duration such as \"10m\": {error}"
            ))
        })?;
        Ok(Self::After(duration))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is not a duration such as \"30s\": {error}"
        ))
    })
}

/// The error with its line, which contains the key.
fn with_line(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let number = text[..at].matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    let line: String = line.chars().take(LINE_SHOWN_MAX).collect();
    format!("line {} ({line}): {}", number + 1, error.message())
}

/// One argument of `forward`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSetting {
    /// Its name in requests.
    pub name: String,
    /// Its element type.
    #[serde(deserialize_with = "datatype")]
    pub datatype: Datatype,
    /// Its shape; -1 for any size. Not for scalars.
    #[serde(default)]
    pub shape: Vec<i64>,
    /// Whether the model takes it as a plain number or bool, not as a tensor.
    #[serde(default)]
    pub scalar: bool,
    /// For a scalar: its value when a request does not have it.
    #[serde(default)]
    pub constant: Option<toml::Value>,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSetting {
    /// Its name in responses.
    pub name: String,
    /// Its element type.
    #[serde(deserialize_with = "datatype")]
    pub datatype: Datatype,
    /// Its shape; -1 for any size.
    pub shape: Vec<i64>,
}

fn datatype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Datatype, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// Why settings cannot be used. The text names the key and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model.toml: {0}")]
pub struct SettingsError(pub String);

impl ModelSettings {
    /// Reads and checks settings.
    ///
    /// # Errors
    /// The error names the key and the rule.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self =
            toml::from_str(text).map_err(|error| SettingsError(with_line(text, &error)))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let refuse = |key: &str, rule: &str| Err(SettingsError(format!("{key}: {rule}")));
        if !(1..=INSTANCES_MAX).contains(&self.instances) {
            return refuse("instances", "must be from 1 to 64");
        }
        if !(1..=1024).contains(&self.threads) {
            return refuse("threads", "must be from 1 to 1024");
        }
        if self.deadline.is_zero() {
            return refuse("deadline", "must be above zero");
        }
        for (index, input) in self.inputs.iter().enumerate() {
            let key = format!("inputs[{index}] ({})", input.name);
            let mut earlier = self.inputs[..index].iter();
            if earlier.any(|other| other.name == input.name) {
                return refuse(&key, "another input has this name");
            }
            if input.scalar && input.datatype == Datatype::Bytes {
                return refuse(&key, "only a number or bool is a scalar; leave it out");
            }
            if input.scalar && !input.shape.is_empty() {
                return refuse(&key, "a scalar has no shape");
            }
            if !input.scalar && input.constant.is_some() {
                return refuse(&key, "only a scalar can have a constant");
            }
            if input.shape.iter().any(|size| *size < -1) {
                return refuse(&key, "a size must be -1 (any) or at least 0");
            }
            if input.scalar && input.constant.is_some() && input.constant_value().is_none() {
                return refuse(&key, "the constant does not fit the datatype");
            }
        }
        Ok(())
    }
}

impl InputSetting {
    /// The shape that it has in a request: that of one value for a scalar.
    pub fn request_shape(&self) -> &[i64] {
        if self.scalar { &[1] } else { &self.shape }
    }

    /// What the input takes, in the form of the protocol.
    pub(super) fn kind(&self) -> InputKind {
        match scalar_kind(self.datatype) {
            Some(kind) if self.scalar => InputKind::Scalar {
                kind,
                constant: self.constant_value(),
            },
            _ => InputKind::Tensor {
                datatype: self.datatype,
                shape: self.shape.clone(),
            },
        }
    }

    fn constant_value(&self) -> Option<Scalar> {
        match (scalar_kind(self.datatype)?, self.constant.as_ref()?) {
            (ScalarKind::Int, toml::Value::Integer(value)) => Some(Scalar::Int(*value)),
            (ScalarKind::Float, toml::Value::Float(value)) => Some(Scalar::Float(*value)),
            (ScalarKind::Float, toml::Value::Integer(value)) => Some(Scalar::Float(*value as f64)),
            (ScalarKind::Bool, toml::Value::Boolean(value)) => Some(Scalar::Bool(*value)),
            _ => None,
        }
    }
}

/// The kind of a scalar of this datatype in TorchScript. Strings have none.
fn scalar_kind(datatype: Datatype) -> Option<ScalarKind> {
    match datatype {
        Datatype::Bool => Some(ScalarKind::Bool),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            Some(ScalarKind::Float)
        }
        Datatype::Uint8
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32
        | Datatype::Int64 => Some(ScalarKind::Int),
        Datatype::Bytes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_sample_model_are_read() {
        let settings =
            ModelSettings::parse(include_str!("../../../config/models/silero-vad.toml")).unwrap();
        assert!(settings.stateful);
        assert_eq!(
            settings.inputs[0].kind(),
            InputKind::Tensor {
                datatype: Datatype::Fp32,
                shape: vec![-1, 512]
            }
        );
        assert_eq!(
            settings.inputs[1].kind(),
            InputKind::Scalar {
                kind: ScalarKind::Int,
                constant: Some(Scalar::Int(16000))
            }
        );
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(ModelSettings::parse("").unwrap(), ModelSettings::default());
    }

    #[test]
    fn wrong_settings_are_refused_with_key_and_rule() {
        let cases = [
            ("instances = 0", "instances"),
            ("threads = 0", "threads"),
            ("deadline = \"0s\"", "deadline"),
            ("deadline = 3", "deadline"),
            ("colour = \"red\"", "colour"),
            ("ttl = \"soon\"", "soon"),
            ("[[inputs]]\nname = \"x\"\ndatatype = \"TEXT\"", "TEXT"),
            (
                "[[inputs]]\nname = \"x\"\ndatatype = \"BYTES\"\nscalar = true",
                "scalar",
            ),
            (
                "[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nshape = [-2]",
                "inputs[0]",
            ),
            (
                "[[inputs]]\nname = \"x\"\ndatatype = \"FP32\"\nconstant = 1",
                "scalar",
            ),
            (
                "[[inputs]]\nname = \"x\"\ndatatype = \"INT64\"\nscalar = true\nconstant = 1.5",
                "constant",
            ),
        ];
        for (text, word) in cases {
            let error = ModelSettings::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_version_policy_is_latest_or_a_version() {
        let policy = |text: &str| VersionPolicy::parse(text).map_err(|error| error.to_string());
        assert_eq!(policy(""), Ok(VersionPolicy::Latest));
        assert_eq!(
            policy("version_policy = \"latest\""),
            Ok(VersionPolicy::Latest)
        );
        assert_eq!(
            policy("version_policy = { specific = 3 }"),
            Ok(VersionPolicy::Specific(3))
        );
        for (text, word) in [
            ("version_policy = { specific = 0 }", "above zero"),
            ("version_policy = \"newest\"", "latest"),
            ("version_policy = 3", "version_policy"),
            ("instances = 2", "instances"),
        ] {
            let error = policy(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn ttl_is_a_duration_or_never() {
        let ttl = |text: &str| ModelSettings::parse(text).unwrap().ttl;
        assert_eq!(ttl("ttl = \"never\""), Some(Ttl::Never));
        assert_eq!(
            ttl("ttl = \"90s\""),
            Some(Ttl::After(Duration::from_secs(90)))
        );
    }
}
