//! `--check FILE`: prints as JSON whether a file can be loaded, and its signature.

use std::path::Path;

use headroom_model_protocol::{Failure, Sandbox, Start};
use serde_json::json;

use crate::{
    archive,
    model::Model,
    process::{self, ExitCode},
    sandbox,
};

/// Loads a file and prints the result.
pub(crate) fn check(path: &Path) -> ExitCode {
    match load(path) {
        Ok((model, sandbox)) => {
            let signature = &model.signature;
            let report = json!({
                "loadable": true,
                "inputs": signature.inputs,
                "output": signature.output_type,
                "parameter_bytes": model.parameter_bytes,
                "has_reset_states": signature.has_reset_states,
                "load_us": model.load_us,
                "sandbox": sandbox,
            });
            process::print_line(&report.to_string());
            ExitCode::Ok
        }
        Err(failure) => {
            let report =
                json!({ "loadable": false, "kind": failure.kind, "error": failure.message });
            process::print_line(&report.to_string());
            ExitCode::Refused
        }
    }
}

/// Loads a file as a host does, confined as far as the system allows it.
fn load(path: &Path) -> Result<(Model, Sandbox), Failure> {
    let start = Start::new("check", path);
    let file = archive::open(path)?;
    let sandbox = sandbox::confine(start.sandbox, &file)?;
    Ok((Model::load(start, file)?, sandbox))
}
