//! `GET /api/status`: what the page at `/` and `headroom status` show.
//!
//! `GET /api/status/events`: the status as server-sent events, at once when something has changed and
//! about once a second otherwise. The data of each event has the form of `GET /api/status`. A client that
//! reconnects gets the whole state; the ids of events only tell one from another.

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use futures_util::stream;

use super::{NoParameters, event_stream};
use crate::dashboard::{Feed, FollowError, Status};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

pub(super) fn status_docs() -> Docs {
    Docs::new("Whether the server is well, and the main figures of all parts")
        .text(
            "It is what the page at `/` shows. It comes within 50 ms, also while parts hang: a part that does \
             not answer in time is shown with its last answer and the age of that.",
        )
        .query::<NoParameters>()
        .answer::<Status>(200, "The status.")
}

pub(super) fn events_docs() -> Docs {
    Docs::new("The status as server-sent events")
        .text(
            "The data of each event has the form of `GET /api/status`. An event comes at once when something \
             has changed, and about once a second otherwise. The first one of a connection has the whole \
             timeline, unless memory is short; later ones have what is new of it. Without memory for the text of \
             all, an event is `shortened`. A client that reads slowly gets the latest status.",
        )
        .query::<NoParameters>()
        .events(200, "The status, again and again.")
        .problems(&[
            ProblemKind::Overloaded,
            ProblemKind::NotReady,
            ProblemKind::Forbidden,
        ])
}

pub(super) async fn status(feed: web::Data<Feed>, _: web::Query<NoParameters>) -> impl Responder {
    web::Json(feed.status().await)
}

pub(super) async fn events(
    request: HttpRequest,
    feed: web::Data<Feed>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    event_stream::respond(&request, || {
        let follower = feed.into_inner().follow()?;
        Ok(stream::unfold(follower, |mut follower| async {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        }))
    })
}

impl From<FollowError> for Problem {
    fn from(error: FollowError) -> Self {
        let (kind, remedy) = match error {
            FollowError::Full => (
                ProblemKind::Overloaded,
                "; close some, or ask for /api/status",
            ),
            FollowError::Stopping => (ProblemKind::NotReady, ""),
        };
        Self::new(kind, format!("{error}{remedy}"))
    }
}
