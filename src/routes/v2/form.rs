//! Converts problems under `/v2` into the protocol's error form.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

use crate::problem::problem_of;

/// Converts every error of the scope into the protocol's form.
pub(super) async fn protocol_errors<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let in_form = |error: &Error| problem_of(error).in_protocol_form();
    let response = next.call(request).await.map_err(|error| in_form(&error))?;
    Ok(match response.response().error().map(in_form) {
        Some(problem) => {
            let (request, _) = response.into_parts();
            ServiceResponse::new(request, HttpResponse::from_error(problem)).map_into_right_body()
        }
        None => response.map_into_left_body(),
    })
}
