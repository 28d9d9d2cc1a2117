#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::time::Duration;

use actix_web::body::to_bytes;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{ResponseError, rt};
use serde_json::{Value, json};

use headroom_actors::kernel::BudgetError;

use super::{Problem, ProblemKind, no_memory, problem_of};

fn body(problem: &Problem) -> Value {
    let response = problem.error_response();
    let bytes = rt::System::new()
        .block_on(to_bytes(response.into_body()))
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn every_kind_is_as_its_row_says() {
    let mut slugs = HashSet::new();
    for kind in ProblemKind::ALL.iter().copied() {
        assert!(slugs.insert(kind.slug()), "{} is used twice", kind.slug());
        assert!(
            kind.slug()
                .chars()
                .all(|c| c.is_ascii_lowercase() || c == '-')
        );
        assert!(kind.status().is_client_error() || kind.status().is_server_error());

        let problem = Problem::new(kind, "a detail").in_request(HeaderValue::from_static("id-1"));
        let response = problem.error_response();
        assert_eq!(response.status(), kind.status());
        assert_eq!(
            response.headers().get(header::CONTENT_TYPE).unwrap(),
            "application/problem+json"
        );
        assert_eq!(
            body(&problem),
            json!({
                "type": format!("/problems/{}", kind.slug()),
                "title": kind.title(),
                "status": kind.status().as_u16(),
                "detail": "a detail",
                "instance": "id-1",
            })
        );
    }
}

#[test]
fn a_cause_is_for_the_log_alone() {
    let cause = std::io::Error::other("password is hunter2");
    let problem = Problem::internal(&cause);
    assert_eq!(problem.cause.as_deref(), Some("password is hunter2"));
    assert!(!body(&problem).to_string().contains("hunter2"));
    assert!(!problem.to_string().contains("hunter2"));
}

#[test]
fn retry_after_is_rounded_up_to_whole_seconds() {
    for (after, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
        let problem =
            Problem::new(ProblemKind::Overloaded, "busy").retry_after(Duration::from_millis(after));
        let response = problem.error_response();
        assert_eq!(
            response.headers().get(header::RETRY_AFTER).unwrap(),
            seconds
        );
    }
}

#[test]
fn extensions_stand_beside_the_members() {
    let problem = Problem::new(ProblemKind::InsufficientMemory, "too big").with("needed_bytes", 12);
    assert_eq!(body(&problem)["needed_bytes"], 12);
}

#[test]
fn a_made_up_request_id_becomes_a_uri_reference() {
    let problem = Problem::not_found().in_request(HeaderValue::from_static("a b/\"c\""));
    assert_eq!(body(&problem)["instance"], "a%20b%2F%22c%22");
}

#[test]
fn a_callers_mistake_is_never_our_fault() {
    let broken = serde_json::from_str::<Value>("[1").unwrap_err();
    let wrong = serde_json::from_str::<u8>("\"x\"").unwrap_err();
    let errors: Vec<(actix_web::Error, u16)> = vec![
        (Problem::from(broken).into(), 400),
        (Problem::from(wrong).into(), 422),
        (Problem::from(PayloadError::Incomplete(None)).into(), 400),
        (PayloadError::Overflow.into(), 413),
        (PayloadError::Incomplete(None).into(), 400),
        (PayloadError::EncodingCorrupted.into(), 400),
        (actix_web::error::ErrorBadRequest("inner text"), 400),
        (
            actix_web::error::ErrorNotFound("inner text".to_owned()),
            404,
        ),
    ];
    for (error, status) in errors {
        let problem = problem_of(&error);
        assert_eq!(problem.kind.status().as_u16(), status, "{error}");
        assert!(!problem.detail.contains("inner text"));
    }
}

#[test]
fn no_text_of_a_problem_is_long_whatever_it_quotes() {
    let long = "ü".repeat(1 << 20);
    let problem = Problem::new(ProblemKind::InvalidInput, long.clone());
    assert!((2000..2100).contains(&problem.detail.len()));
    assert!(problem.detail.ends_with('…'));
    let problem = problem.caused_by(&std::io::Error::other(long));
    assert!((8000..8300).contains(&problem.cause.as_deref().unwrap().len()));
    let short = Problem::new(ProblemKind::InvalidInput, "short");
    assert_eq!(short.detail, "short");
}

#[test]
fn memory_that_the_settings_never_allow_is_refused_for_good() {
    let refuse = |need| {
        let budget = 1000;
        no_memory(
            "the bytes",
            BudgetError::Short {
                need,
                free: 10,
                budget,
            },
        )
    };
    let for_now = refuse(1000);
    assert_eq!(for_now.kind, ProblemKind::InsufficientMemory);
    assert!(
        for_now
            .error_response()
            .headers()
            .contains_key(header::RETRY_AFTER)
    );
    let for_good = refuse(1001);
    assert_eq!(for_good.kind, ProblemKind::MemoryExceeded);
    assert!(
        !for_good
            .error_response()
            .headers()
            .contains_key(header::RETRY_AFTER)
    );
}
