//! `GET /api/jobs/{id}/events`: one job as server-sent events.
//!
//! Each event is the whole state of the job. The first is the present state, each further one a
//! change, the last one the final state; then the response ends. An event's id is the revision of the
//! state. A client that reconnects with `Last-Event-ID` gets no state that it has, and 204 if it has
//! the final one, so that it does not reconnect again.
//!
//! States are not queued. A client that reads slowly gets the latest state when it has read the one
//! before; what it has not read of that counts as unread text (`connection/unread.rs`).

use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use headroom_actors::jobs::{Follow, Follower, JobStatus};
use serde_json::Error;
use tokio::time::{sleep, timeout};

use super::{NoParameters, one_job};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::routes::event_stream;

/// Time without a change after which a comment shows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The least time between two events. Changes within it are one event.
const INTERVAL: Duration = Duration::from_millis(50);

/// The comment that is sent when nothing changes.
const COMMENT: &[u8] = b": nothing has changed\n\n";

pub(in crate::routes) fn events_docs() -> Docs {
    one_job("One job as server-sent events")
        .text(
            "The data of each event is the whole job as JSON, as `GET /api/jobs/{id}` gives it. The first \
             is the present state, each further one a change, the last one the final state. An event's id \
             is the revision of the state.",
        )
        .header(
            "last-event-id",
            "The id of the last event that the client has. It gets no state that it has.",
        )
        .events(200, "The states of the job.")
        .problems(&[ProblemKind::Forbidden])
        .empty_answer(204, "The client has the final state already, and need not come again.")
}

pub(in crate::routes) async fn events(
    request: HttpRequest,
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    let follow = Follow {
        id: id.into_inner(),
    };
    let mut follower = handles.jobs.ask(follow, handles.left()).await??;
    let present = follower.watch.current();
    let is_known = last_event_id(request.headers()) == Some(present.revision);
    if is_known && present.state.is_final() {
        return Ok(HttpResponse::NoContent().finish());
    }
    event_stream::respond(&request, || {
        let first = if is_known {
            None
        } else {
            Some(event(&present))
        };
        let events = stream::try_unfold((follower, first), |(follower, first)| async {
            match first {
                Some(event) => Ok(Some((event?, (follower, None)))),
                None => next(follower).await,
            }
        });
        Ok(events)
    })
}

type First = Option<Result<Bytes, Error>>;

/// The next event or comment. `None` after the final state.
async fn next(mut follower: Follower) -> Result<Option<(Bytes, (Follower, First))>, Error> {
    sleep(INTERVAL).await;
    let bytes = match timeout(KEEP_ALIVE, follower.watch.next()).await {
        Ok(None) => return Ok(None),
        Ok(Some(status)) => event(&status)?,
        Err(_) => Bytes::from_static(COMMENT),
    };
    Ok(Some((bytes, (follower, None))))
}

/// The text of an event. JSON has no line breaks.
fn event(status: &JobStatus) -> Result<Bytes, Error> {
    let json = serde_json::to_string(status)?;
    Ok(format!("id: {}\ndata: {json}\n\n", status.revision).into())
}

/// The id of the last event that the client has received. Other ids than ours count as none.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.parse().ok()
}
