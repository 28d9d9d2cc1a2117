//! Names of resources, as callers write them.

use headroom_actors::model::Resolve;

use crate::handles::Handles;
use crate::problem::{Problem, ProblemKind};

/// The resource of the highest version of the model `name`.
pub(super) async fn resolve(name: &str, handles: &Handles) -> Result<String, Problem> {
    let resolve = Resolve {
        name: name.to_owned(),
        version: None,
    };
    let model = handles
        .repository
        .ask(resolve, handles.request_deadline)
        .await?;
    let model = model.ok_or_else(|| {
        let detail = format!("there is no resource and no model named {name:?}");
        Problem::new(ProblemKind::NotFound, detail)
    })?;
    Ok(model.file.resource())
}
