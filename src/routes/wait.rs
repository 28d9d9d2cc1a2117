//! `?wait=SECONDS`: how long a request waits for the work that it starts; and what is the same in all
//! requests that start a job: how they are read, and their response.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::jobs::{JobStatus, JobWatch};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use crate::body::{BodyBudget, read_body};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, job_path, malformed};

/// What is left of the request's deadline to write the response after a wait.
const TO_RESPOND: Duration = Duration::from_millis(100);

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// Seconds to wait for the end of the work, at most `server.request_deadline`.
    wait: Option<f64>,
}

impl WaitQuery {
    /// How long to wait, if the caller says so.
    ///
    /// # Errors
    /// It is no time, or longer than `most`.
    pub(super) fn wait(&self, most: Duration) -> Result<Option<Duration>, Problem> {
        let Some(seconds) = self.wait else {
            return Ok(None);
        };
        let wait = Duration::try_from_secs_f64(seconds).ok();
        let wait = wait.filter(|wait| *wait <= most).ok_or_else(|| {
            let most = most.as_secs_f64();
            let detail = format!("wait is a number of seconds from 0 to {most}");
            malformed(detail)
        })?;
        Ok(Some(wait))
    }
}

/// Adds what is the same for all routes that start a job.
pub(super) fn documented(docs: Docs) -> Docs {
    docs.query::<WaitQuery>()
        .answer::<JobStatus>(200, "The job has ended within `wait`.")
        .link("get_jobs_by_id", "id", "$response.body#/id")
        .answer::<JobStatus>(202, "The job is running.")
        .link("get_jobs_by_id", "id", "$response.body#/id")
        .link("get_jobs_by_id_events", "id", "$response.body#/id")
        .link("delete_jobs_by_id", "id", "$response.body#/id")
        .calls_actors()
}

/// Reads a request that starts a job: how long it waits for the end of the job, and its body by `parse`. The
/// body's memory is free afterwards.
///
/// # Errors
/// The wait or the body is refused.
pub(super) async fn read<T>(
    request: &HttpRequest,
    payload: web::Payload,
    bodies: &BodyBudget,
    query: &WaitQuery,
    handles: &RequestHandles,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem>,
) -> Result<(Option<Duration>, T), Problem> {
    let wait = query.wait(handles.request_deadline)?;
    let body = read_body(request, payload, bodies).await?;
    Ok((wait, parse(&body)?))
}

/// 202 with a job that runs; 200 with its end, if it ends within `wait`.
pub(super) async fn respond(
    mut job: JobWatch,
    wait: Option<Duration>,
    handles: &RequestHandles,
) -> HttpResponse {
    if let Some(wait) = wait {
        let wait = wait.min(handles.left().saturating_sub(TO_RESPOND));
        // If it has not ended in time, its present state is the answer.
        timeout(wait, job.ended()).await.ok();
    }
    let status = job.current();
    let mut response = match status.state.is_final() {
        true => HttpResponse::Ok(),
        false => HttpResponse::Accepted(),
    };
    response.insert_header((header::LOCATION, job_path(&status.id)));
    response.json(&*status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded_by_the_deadline_of_requests() {
        let most = Duration::from_secs(30);
        let ask = |wait| WaitQuery { wait }.wait(most);
        assert_eq!(ask(None).unwrap(), None);
        for seconds in [0.0, 0.5, 30.0] {
            let wait = Duration::from_secs_f64(seconds);
            assert_eq!(ask(Some(seconds)).unwrap(), Some(wait));
        }
        for seconds in [-1.0, 30.1, f64::NAN, f64::INFINITY] {
            let problem = ask(Some(seconds)).unwrap_err();
            assert!(problem.detail.contains("from 0 to 30"), "{problem}");
        }
    }
}
