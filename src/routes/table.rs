//! What a route is, and how routes become resources of the HTTP server.
//!
//! Why it exists: a path, who may call it and how it is limited are one decision, made in one line. A
//! route without a role, a class or documentation does not compile. A path that has no line answers 404, and a method
//! that has none answers 405 with the methods of the path.

use std::fmt;

use actix_web::http::Method;
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, guard, web};
use serde::Serialize;

use crate::openapi::Docs;
use crate::problem::Problem;
use crate::route_class::{RouteClass, note};

/// The least role that a caller needs. Each role includes the ones before it. Callers have no keys yet,
/// so roles are declared and not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Anybody, without a key.
    Public,
    /// Reads the state of the server.
    Reader,
    /// Uses what the server runs.
    User,
    /// Decides what is loaded.
    Operator,
    /// Changes keys and settings.
    Admin,
}

/// One line of the route table.
pub struct Route {
    /// The method. A route for GET also answers HEAD.
    pub method: Method,
    /// The path, with parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub role: Role,
    /// How it is limited.
    pub class: RouteClass,
    /// What the OpenAPI document says of it.
    pub docs: fn() -> Docs,
    handler: actix_web::Route,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Declares the constructors of routes, each with its method and the guards of its requests.
macro_rules! constructors {
    ($( $(#[$meta:meta])* $name:ident = $method:ident, $guarded:expr; )*) => { $(
        $(#[$meta])*
        pub fn $name<F, Args>(
            path: &'static str,
            role: Role,
            class: RouteClass,
            handler: F,
            docs: fn() -> Docs,
        ) -> Route
        where
            F: Handler<Args>,
            Args: FromRequest + 'static,
            F::Output: Responder + 'static,
        {
            Route {
                method: Method::$method,
                path,
                role,
                class,
                docs,
                handler: $guarded.to(handler),
            }
        }
    )* };
}

constructors! {
    /// A route for GET and HEAD.
    get = GET, web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    /// A route for POST.
    post = POST, web::post();
    /// A route for PUT.
    put = PUT, web::put();
    /// A route for PATCH.
    patch = PATCH, web::patch();
    /// A route for HEAD, on a path without GET.
    head = HEAD, web::head();
    /// A route for OPTIONS.
    options = OPTIONS, web::route().method(Method::OPTIONS);
    /// A route for DELETE.
    delete = DELETE, web::delete();
}

/// Makes one resource of all routes with the same path. `prefix` is left out of the paths: that of the
/// scope which the resources are added to.
pub fn resources(routes: Vec<Route>, prefix: &str) -> Vec<Resource> {
    let mut by_path: Vec<(&'static str, Vec<Route>)> = Vec::new();
    for route in routes {
        match by_path.iter_mut().find(|(path, _)| *path == route.path) {
            Some((_, routes)) => routes.push(route),
            None => by_path.push((route.path, vec![route])),
        }
    }
    let resource = |(path, routes): (&'static str, Vec<Route>)| {
        let allow = allow(&routes);
        let refuse = move || {
            let problem = Problem::method_not_allowed(&allow);
            async { refuse(problem) }
        };
        let path = path.strip_prefix(prefix).unwrap_or(path);
        let resource = web::resource(path).default_service(web::to(refuse));
        let routes = routes.into_iter();
        let routes = routes.map(|route| route.handler.guard(note(route.class)));
        routes.fold(resource, Resource::route)
    };
    by_path.into_iter().map(resource).collect()
}

/// The value of `Allow` for a path with `routes`.
fn allow(routes: &[Route]) -> String {
    let methods = routes.iter().map(|route| match route.method {
        Method::GET => "GET, HEAD",
        ref method => method.as_str(),
    });
    methods.collect::<Vec<_>>().join(", ")
}

/// The response for paths without a route.
///
/// # Errors
/// Always.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    refuse(Problem::not_found())
}

fn refuse(problem: Problem) -> Result<HttpResponse, Problem> {
    Err(problem)
}
