//! How a host is confined, and what its model was denied.

use serde::{Deserialize, Serialize};

/// How a host is to be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    /// Load nothing if a part of the confinement cannot be had.
    Required,
    /// Confine the host as far as the system allows it.
    #[default]
    BestEffort,
    /// Do not confine it.
    Off,
}

impl SandboxMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Required, Self::BestEffort, Self::Off];

    /// Its name in settings.
    pub fn label(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best_effort",
            Self::Off => "off",
        }
    }
}

/// How much of the confinement holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// All parts.
    Full,
    /// Some parts.
    Partial,
    /// None, as the settings say.
    #[default]
    Off,
}

impl SandboxState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Full, Self::Partial, Self::Off];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::Off => "off",
        }
    }
}

/// How a host is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// How much of the confinement holds.
    pub state: SandboxState,
    /// The version of the kernel's Landlock whose rules hold.
    pub landlock_abi: Option<u32>,
    /// Whether the filter of system calls holds.
    pub seccomp: bool,
    /// The user that the host runs as.
    pub user: u32,
    /// The parts that do not hold, each with the reason.
    pub missing: Vec<String>,
}

/// What a model was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeniedAction {
    /// To open a file.
    File,
    /// To use the network or another process's socket.
    Network,
    /// To start a program or a process.
    Program,
    /// To signal, read or change another process.
    Process,
    /// Any other system call.
    System,
}

impl DeniedAction {
    /// All actions.
    pub const ALL: [Self; 5] = [
        Self::File,
        Self::Network,
        Self::Program,
        Self::Process,
        Self::System,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Network => "network",
            Self::Program => "program",
            Self::Process => "process",
            Self::System => "system",
        }
    }
}
