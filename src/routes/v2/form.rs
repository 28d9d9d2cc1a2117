//! Converts problems under `/v2` into the protocol's error form.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

use crate::problem::{ProtocolError, problem_of};

/// Converts every error of the scope into the protocol's form.
pub(super) async fn protocol_errors<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let response = next
        .call(request)
        .await
        .map_err(|error| match problem_of(&error) {
            Some(problem) => ProtocolError::new(problem).into(),
            None => error,
        })?;
    Ok(match response.response().error().and_then(problem_of) {
        Some(problem) => {
            let answer = HttpResponse::from_error(ProtocolError::new(problem));
            let (request, _) = response.into_parts();
            ServiceResponse::new(request, answer).map_into_right_body()
        }
        None => response.map_into_left_body(),
    })
}
