//! What a route is for, and how the middleware learns which route a request has.

use std::cell::Cell;
use std::rc::Rc;

use actix_web::HttpMessage;
use actix_web::dev::ServiceRequest;
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

/// The route of a request, as soon as it is found. It is shared with the request, so that it is also known of a
/// request whose response never came.
#[derive(Clone, Debug, Default)]
pub struct MatchedRoute(Rc<Found>);

#[derive(Debug, Default)]
struct Found {
    path: Cell<Option<&'static str>>,
    class: Cell<Option<RouteClass>>,
}

impl MatchedRoute {
    /// Adds itself to a request.
    pub fn of(request: &ServiceRequest) -> Self {
        let matched = Self::default();
        request.extensions_mut().insert(matched.clone());
        matched
    }

    /// The path in the route table, with parameters in braces. `None` if the path of the request has no route.
    pub fn path(&self) -> Option<&'static str> {
        self.0.path.get()
    }

    /// `None` if no route has matched.
    pub fn class(&self) -> Option<RouteClass> {
        self.0.class.get()
    }

    /// The path of `request` is that of a route.
    pub fn note_path(request: &ServiceRequest, path: &'static str) {
        if let Some(matched) = request.extensions().get::<Self>() {
            matched.0.path.set(Some(path));
        }
    }

    /// A route of this class gets `request`.
    pub fn note_class(request: &ServiceRequest, class: RouteClass) {
        if let Some(matched) = request.extensions().get::<Self>() {
            matched.0.class.set(Some(class));
        }
    }
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
