//! What was asked of Redis, and what is done of it after an error.

use deadpool_redis::redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerError, ServerErrorKind};

use super::commands::{is_script, may_reach_several_nodes};
use super::error::Done;

/// What was asked.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    /// One command for one server.
    Command(&'a Cmd),
    /// One command that the driver may have sent to several nodes of a cluster.
    Spread,
    /// A call of a script by its hash.
    Script,
    /// Several commands, perhaps as a transaction.
    Pipeline(&'a Pipeline),
}

impl<'a> Request<'a> {
    pub(super) fn command(command: &'a Cmd, in_cluster: bool) -> Self {
        if in_cluster && may_reach_several_nodes(command) {
            Self::Spread
        } else {
            Self::Command(command)
        }
    }

    pub(super) fn is_spread(self) -> bool {
        matches!(self, Self::Spread)
    }

    /// Whether the request has a command at this index.
    pub(super) fn has(self, index: usize) -> bool {
        matches!(self, Self::Pipeline(pipeline) if index < pipeline.len())
    }

    /// What is done of the request after the server answered `error`, or after the driver refused to
    /// send it.
    pub(super) fn done_after(self, error: &RedisError) -> Done {
        match self {
            Self::Command(command) if !is_script(command) => Done::Nothing,
            Self::Command(_) | Self::Script if is_refused_unread(error) => Done::Nothing,
            Self::Command(_) | Self::Script | Self::Spread => Done::Part,
            Self::Pipeline(pipeline) => done_of_pipeline(pipeline, error),
        }
    }
}

/// Whether the error is one that the server sends before it runs a script or a transaction.
fn is_refused_unread(error: &RedisError) -> bool {
    use ServerErrorKind as Kind;
    match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            Kind::NoScript
                | Kind::ExecAbort
                | Kind::BusyLoading
                | Kind::MasterDown
                | Kind::ReadOnly
                | Kind::Moved
                | Kind::Ask
                | Kind::TryAgain
                | Kind::ClusterDown
                | Kind::CrossSlot
        ),
        ErrorKind::ClusterConnectionNotFound => true,
        // Another script runs.
        _ => error.code() == Some("BUSY"),
    }
}

fn done_of_pipeline(pipeline: &Pipeline, error: &RedisError) -> Done {
    let Some(errors) = error.clone().into_server_errors() else {
        // The driver refused to send it.
        return Done::Nothing;
    };
    let is_of_the_whole = ServerError::try_from(error.clone()).is_ok();
    let is_aborted = error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort);
    let is_undone = if is_aborted {
        // The driver gives the index of no command to an error of `MULTI` itself. Without `MULTI`, the
        // server runs the commands one by one.
        errors.iter().all(|(index, _)| *index < pipeline.len())
    } else if is_of_the_whole {
        is_refused_unread(error)
    } else {
        errors.len() == pipeline.len() && !pipeline.cmd_iter().any(is_script)
    };
    if is_undone { Done::Nothing } else { Done::Part }
}
