//! What a route is.
//!
//! Why it exists: a path, who may call it and how it is limited are one decision, made in one line. A
//! route without a role, a class or documentation does not compile.

use std::fmt;

use actix_web::http::Method;
use actix_web::{FromRequest, Handler, HttpResponse, Responder, web};
use serde::Serialize;

use crate::openapi::Docs;
use crate::problem::Problem;
use crate::route_class::RouteClass;

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
    pub(super) handler: actix_web::Route,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Declares the constructors of routes, each with its method.
macro_rules! constructors {
    ($( $(#[$meta:meta])* $name:ident = $method:ident; )*) => { $(
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
                handler: web::to(handler),
            }
        }
    )* };
}

constructors! {
    /// A route for GET and HEAD.
    get = GET;
    /// A route for POST.
    post = POST;
    /// A route for PUT.
    put = PUT;
    /// A route for PATCH.
    patch = PATCH;
    /// A route for HEAD, on a path without GET.
    head = HEAD;
    /// A route for OPTIONS.
    options = OPTIONS;
    /// A route for DELETE.
    delete = DELETE;
}

/// The response for paths without a route.
///
/// # Errors
/// Always.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found())
}
