//! Finds the route of a request, and calls its handler.
//!
//! Why it exists: the framework compiles a regular expression for each path with a parameter, on each worker thread. Those of
//! all routes take 1.6 MB a thread, and a request is compared with one after another. Here all paths are in one radix tree.

use std::rc::Rc;

use actix_web::dev::{
    AppService, HttpServiceFactory, ResourceDef, Service, ServiceFactory, ServiceRequest,
    ServiceResponse, always_ready,
};
use actix_web::http::Method;
use actix_web::{Error, FromRequest, Handler, Responder, web};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, ready, try_join, try_join_all};
use matchit::Router;

use super::table::Route;
use crate::problem::Problem;
use crate::route_class::{MatchedRoute, RouteClass};

/// All routes of a scope, as one service of the framework.
#[expect(missing_debug_implementations, reason = "handlers have none")]
pub struct Dispatch {
    paths: Rc<Paths>,
    /// The handlers of all routes.
    handlers: Vec<actix_web::Route>,
    /// The handler of requests whose path has no route.
    otherwise: actix_web::Route,
}

impl Dispatch {
    /// Gives requests to `routes`, and those whose path has no route to the handler `otherwise`. A path that has routes,
    /// but none for the method of the request, answers 405 with its methods.
    ///
    /// # Panics
    /// Two paths differ only in the names of their parameters. Paths are constants, so each start would panic.
    pub fn new<F, Args>(routes: Vec<Route>, otherwise: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        let mut paths = Paths::default();
        let mut handlers = Vec::with_capacity(routes.len());
        for route in routes {
            paths.add(&route, handlers.len());
            handlers.push(route.handler);
        }
        Self {
            paths: Rc::new(paths),
            handlers,
            otherwise: web::to(otherwise),
        }
    }
}

impl HttpServiceFactory for Dispatch {
    fn register(self, config: &mut AppService) {
        // Each path of the scope begins like this.
        config.register_service(ResourceDef::prefix(""), None, self, None);
    }
}

impl ServiceFactory<ServiceRequest> for Dispatch {
    type Response = ServiceResponse;
    type Error = Error;
    type Config = ();
    type Service = Dispatcher;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Dispatcher, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let paths = self.paths.clone();
        let handlers = self.handlers.iter().map(|handler| handler.new_service(()));
        let services = try_join(try_join_all(handlers), self.otherwise.new_service(()));
        let dispatcher = |(handlers, otherwise)| Dispatcher {
            paths,
            handlers,
            otherwise,
        };
        services.map(|made| made.map(dispatcher)).boxed_local()
    }
}

/// A handler, ready for requests.
type HandlerService = <actix_web::Route as ServiceFactory<ServiceRequest>>::Service;

/// Finds the routes of requests on one worker thread.
#[expect(missing_debug_implementations, reason = "handlers have none")]
pub struct Dispatcher {
    paths: Rc<Paths>,
    handlers: Vec<HandlerService>,
    otherwise: HandlerService,
}

impl Service<ServiceRequest> for Dispatcher {
    type Response = ServiceResponse;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<ServiceResponse, Error>>;

    always_ready!();

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let Some(path) = self.paths.find(&mut request) else {
            return self.otherwise.call(request);
        };
        MatchedRoute::note_path(&request, path.path);
        match path.route(request.method()) {
            Some(&PathRoute { class, handler, .. }) => {
                MatchedRoute::note_class(&request, class);
                self.handlers[handler].call(request)
            }
            None => {
                let problem = Problem::method_not_allowed(&path.allow());
                ready(Ok(request.error_response(problem))).boxed_local()
            }
        }
    }
}

/// All paths, and which routes each has.
#[derive(Debug, Default)]
struct Paths {
    /// The positions in `paths`.
    tree: Router<usize>,
    paths: Vec<Path>,
}

/// One path.
#[derive(Debug)]
struct Path {
    /// As in the route table, with parameters in braces.
    path: &'static str,
    /// The names of its parameters, in order.
    parameters: Vec<&'static str>,
    routes: Vec<PathRoute>,
}

/// A route of a path.
#[derive(Debug)]
struct PathRoute {
    method: Method,
    class: RouteClass,
    /// The position of its handler.
    handler: usize,
}

impl Paths {
    fn add(&mut self, route: &Route, handler: usize) {
        let position = self.paths.iter().position(|it| it.path == route.path);
        let position = position.unwrap_or_else(|| self.add_path(route.path));
        self.paths[position].routes.push(PathRoute {
            method: route.method.clone(),
            class: route.class,
            handler,
        });
    }

    #[expect(clippy::expect_used, reason = "the paths are constants of the program")]
    fn add_path(&mut self, path: &'static str) -> usize {
        let position = self.paths.len();
        let inserted = self.tree.insert(path, position);
        inserted.expect("the paths of the route table go together");
        let parameter = |part: &'static str| part.strip_prefix('{')?.strip_suffix('}');
        self.paths.push(Path {
            path,
            parameters: path.split('/').filter_map(parameter).collect(),
            routes: Vec::new(),
        });
        position
    }

    /// The path of a request, which gets the values of the parameters.
    fn find(&self, request: &mut ServiceRequest) -> Option<&Path> {
        let info = request.match_info_mut();
        // Percent-encoded characters are decoded, except for slashes.
        let found = self.tree.at(info.as_str()).ok()?;
        let path = self.paths.get(*found.value)?;
        let values: Vec<_> = found.params.iter().map(|(_, it)| it.to_owned()).collect();
        // The tree lets parameters in the middle of a path be empty.
        if values.iter().any(String::is_empty) {
            return None;
        }
        for (name, value) in path.parameters.iter().zip(values) {
            info.add_static(*name, value);
        }
        Some(path)
    }
}

impl Path {
    /// The route for requests with `method`. A route for GET also answers HEAD.
    fn route(&self, method: &Method) -> Option<&PathRoute> {
        let answers = |route: &&PathRoute| {
            route.method == method || (route.method == Method::GET && method == Method::HEAD)
        };
        self.routes.iter().find(answers)
    }

    /// The value of `Allow`.
    fn allow(&self) -> String {
        let methods = self.routes.iter().map(|route| match route.method {
            Method::GET => "GET, HEAD",
            ref method => method.as_str(),
        });
        methods.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::http::header::ALLOW;
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, HttpRequest};

    use super::super::{Role, get, head, not_found, post, put};
    use super::*;
    use crate::openapi::Docs;

    /// Answers with the parameters of the path.
    async fn parameters(request: HttpRequest) -> String {
        let parameters = request.match_info().iter();
        let parameters = parameters.map(|(name, value)| format!("{name}={value}"));
        parameters.collect::<Vec<_>>().join(" ")
    }

    fn docs() -> Docs {
        Docs::new("")
    }

    #[rustfmt::skip] // A table has one line for each route.
    fn table() -> Vec<Route> {
        use Role::Public;
        use RouteClass::Status;

        vec![
            get("/models/stats", Public, Status, parameters, docs),
            get("/models/{model}", Public, Status, parameters, docs),
            put("/models/{model}", Public, Status, parameters, docs),
            get("/models/{model}/versions/{version}", Public, Status, parameters, docs),
            get("/models/{model}/ready", Public, Status, parameters, docs),
            head("/parts/{part}", Public, Status, parameters, docs),
            post("/parts/{part}", Public, Status, parameters, docs),
        ]
    }

    /// The status of the response to a request, its body, and its `Allow`.
    async fn answer(method: Method, path: &str) -> (StatusCode, String, Option<String>) {
        let app = App::new().service(Dispatch::new(table(), not_found));
        let app = init_service(app).await;
        let request = TestRequest::with_uri(path).method(method).to_request();
        let response = call_service(&app, request).await;
        let allow = response.headers().get(ALLOW);
        let allow = allow.and_then(|allow| Some(allow.to_str().ok()?.to_owned()));
        let status = response.status();
        let body = String::from_utf8_lossy(&read_body(response).await).into_owned();
        (status, body, allow)
    }

    #[actix_web::test]
    async fn a_handler_gets_the_parameters_of_the_path() {
        let found = [
            ("/models/stats", ""),
            ("/models/a", "model=a"),
            ("/models/stats/ready", "model=stats"),
            ("/models/a/versions/2?of=b", "model=a version=2"),
            // The slash that is encoded belongs to the parameter.
            ("/models/a%2Fready", "model=a%2Fready"),
            ("/models/gr%C3%BC%C3%9Fe", "model=grüße"),
        ];
        for (path, parameters) in found {
            let (status, body, _) = answer(Method::GET, path).await;
            assert_eq!((status, &*body), (StatusCode::OK, parameters), "{path}");
        }
        for path in [
            "/",
            "/models",
            "/models/",
            "/models//ready",
            "/models/a/",
            "/models/a/ready/b",
        ] {
            let (status, ..) = answer(Method::GET, path).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[actix_web::test]
    async fn a_path_answers_to_its_methods_and_names_them_to_others() {
        for (method, path) in [
            (Method::PUT, "/models/a"),
            (Method::HEAD, "/models/a"),
            (Method::HEAD, "/parts/a"),
            (Method::POST, "/parts/a"),
        ] {
            let (status, ..) = answer(method, path).await;
            assert_eq!(status, StatusCode::OK, "{path}");
        }
        for (method, path, methods) in [
            (Method::PUT, "/models/stats", "GET, HEAD"),
            (Method::DELETE, "/models/a", "GET, HEAD, PUT"),
            (Method::GET, "/parts/a", "HEAD, POST"),
        ] {
            let (status, _, allow) = answer(method, path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(allow.as_deref(), Some(methods), "{path}");
        }
    }
}
