//! `--check FILE`: prints as JSON whether a file can be loaded, and its signature.

use std::path::Path;

use headroom_model_protocol::Start;
use serde_json::json;

use crate::{
    model::Model,
    process::{self, ExitCode},
};

/// Loads a file and prints the result.
pub(crate) fn check(path: &Path) -> ExitCode {
    match Model::load(Start::new("check", path)) {
        Ok(model) => {
            let signature = &model.signature;
            let report = json!({
                "loadable": true,
                "inputs": signature.inputs,
                "output": signature.output_type,
                "parameter_bytes": model.parameter_bytes,
                "has_reset_states": signature.has_reset_states,
                "load_us": model.load_us,
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
