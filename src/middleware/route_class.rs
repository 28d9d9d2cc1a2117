//! The classes of routes that requests are counted by.

use actix_web::http::Method;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// It runs a model.
    Inference,
    /// It reads the state of the server.
    Status,
    /// It changes the state of the server.
    Control,
    /// No route matched it.
    Other,
}

impl RouteClass {
    /// Every class, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Status, Self::Control, Self::Other];

    /// The name of the class in answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Status => "status",
            Self::Control => "control",
            Self::Other => "other",
        }
    }

    /// The class of a request. `route` is the pattern of the route that matched, or the path of a
    /// request that ended before a route matched.
    pub fn of(method: &Method, route: Option<&str>) -> Self {
        let Some(route) = route else {
            return Self::Other;
        };
        if route.ends_with("/infer") {
            Self::Inference
        } else if method.is_safe() || route == "/v2/repository/index" {
            Self::Status
        } else {
            Self::Control
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_follows_from_the_method_and_the_route() {
        use RouteClass::{Control, Inference, Other, Status};
        for (method, route, class) in [
            (Method::POST, Some("/v2/models/{model}/infer"), Inference),
            (Method::POST, Some("/v2/models/silero-vad/infer"), Inference),
            (Method::GET, Some("/v2/models/{model}/ready"), Status),
            (Method::HEAD, Some("/api/performance/metrics"), Status),
            (Method::POST, Some("/v2/repository/index"), Status),
            (
                Method::POST,
                Some("/v2/repository/models/{model}/load"),
                Control,
            ),
            (
                Method::DELETE,
                Some("/api/performance/lazy-loader/cache"),
                Control,
            ),
            (Method::GET, None, Other),
        ] {
            assert_eq!(RouteClass::of(&method, route), class, "{method} {route:?}");
        }
    }

    #[test]
    fn the_classes_are_numbered_in_order() {
        for (number, class) in RouteClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, number);
        }
    }
}
