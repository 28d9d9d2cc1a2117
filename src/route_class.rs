//! What a route is for, and how the middleware learns it of the route that matched.

use std::cell::Cell;
use std::rc::Rc;

use actix_web::HttpMessage;
use actix_web::dev::ServiceRequest;
use actix_web::guard::{Guard, fn_guard};
use serde::Serialize;

/// The prefix of the Open Inference Protocol, whose errors have a form of their own.
pub const PROTOCOL: &str = "/v2";

/// What limits and latencies are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteClass {
    /// Reads state that is in memory. It waits for nothing heavy.
    Status,
    /// Uses a resource, and may load it first.
    Work,
    /// Changes what is loaded, or starts something long.
    Control,
    /// Moves large data, at the client's speed. Its handler has a deadline of its own for that.
    Transfer,
}

impl RouteClass {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Status, Self::Work, Self::Control, Self::Transfer];

    /// The name of the class in answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Work => "work",
            Self::Control => "control",
            Self::Transfer => "transfer",
        }
    }
}

/// The class of the route that matches a request, as soon as one has. It is shared with the request, so
/// that it is also known of a request whose response never came.
#[derive(Clone, Debug, Default)]
pub struct MatchedClass(Rc<Cell<Option<RouteClass>>>);

impl MatchedClass {
    /// Adds itself to a request.
    pub fn of(request: &ServiceRequest) -> Self {
        let class = Self::default();
        request.extensions_mut().insert(class.clone());
        class
    }

    /// `None` if no route has matched.
    pub fn get(&self) -> Option<RouteClass> {
        self.0.get()
    }
}

/// Notes the class of a request. It is the last guard of a route, and holds back no request.
pub fn note(class: RouteClass) -> impl Guard {
    fn_guard(move |request| {
        if let Some(matched) = request.req_data().get::<MatchedClass>() {
            matched.0.set(Some(class));
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classes_are_numbered_in_order() {
        for (number, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }
}
