//! `--check FILE`: whether a file can be loaded, and what it is, as JSON.

use std::path::Path;

use headroom_model_protocol::Start;
use serde_json::{Value, json};

use crate::{
    model::Model,
    process::{self, ExitCode},
};

/// Loads a file and prints what came of it.
pub(crate) fn check(path: &Path) -> ExitCode {
    match Model::start(Start::new("check", "1", path)) {
        Ok((_, ready)) => {
            let inputs: Vec<Value> = ready
                .inputs
                .iter()
                .map(|input| json!({ "name": input.name, "type": input.type_text }))
                .collect();
            let report = json!({
                "loadable": true,
                "inputs": inputs,
                "output": ready.output_type,
                "parameter_bytes": ready.parameter_bytes,
                "has_reset_states": ready.has_reset_states,
                "load_us": ready.load_us,
            });
            process::print_line(&report.to_string());
            ExitCode::Ok
        }
        Err(failure) => {
            let report = json!({ "loadable": false, "kind": format!("{:?}", failure.kind), "error": failure.message });
            process::print_line(&report.to_string());
            ExitCode::Refused
        }
    }
}
