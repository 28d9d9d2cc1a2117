//! Names of resources, as callers write them.

use std::time::Duration;

use headroom_actors::kernel::AskError;
use headroom_actors::model::{Resolve, Wanted};

use crate::handles::Handles;
use crate::problem::{Problem, ProblemKind};

/// The resource of the default version of the model `name`. The repository has to answer `within` this time.
pub(super) async fn resolve(
    name: &str,
    handles: &Handles,
    within: Duration,
) -> Result<String, Problem> {
    find(name, handles, within).await?
}

/// Likewise, for callers to whom a missing answer is no problem.
pub(super) async fn find(
    name: &str,
    handles: &Handles,
    within: Duration,
) -> Result<Result<String, Problem>, AskError> {
    let resolve = Resolve {
        name: name.to_owned(),
        wanted: Wanted::Default,
    };
    let model = handles.repository.ask(resolve, within).await?;
    Ok(model.map(|model| model.file.resource()).map_err(|_| {
        let detail = format!(
            "there is no resource and no model named {name:?}; \
             GET /api/performance/lazy-loader/status lists those that are known"
        );
        Problem::new(ProblemKind::NotFound, detail)
    }))
}
