//! Requests with `Expect: 100-continue`, whose clients send the body only when they are told to.
//!
//! actix-http tells them before the application has seen the request, so that a client would begin to send gigabytes that
//! are refused by their announced length. It has a service for this, which takes such a request first, and says either that
//! the client may go on, after which the request is served, or what the response is. Here that service serves the
//! request itself. If the handler has to wait for the body, the client is told to send it, and the response, which is under
//! way, is handed to the service that would serve the request. If the response comes before, the client gets it at once.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_http::body::{BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::{HttpMessage, Payload, Request, Response};
use actix_service::{Service, ServiceFactory, apply_fn_factory, fn_factory, fn_service};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::{Either, LocalBoxFuture};

use super::exchange::{Holding, Tracked};
use super::server::track;

/// A response under way.
type Responding<B> = LocalBoxFuture<'static, Result<Response<Tracked<B>>, Response<BoxBody>>>;

/// The application of one thread, which both services use.
type Shared<S> = Rc<RefCell<Option<Rc<S>>>>;

/// In the data of a request that stands for one that is being served already.
struct Resumed<B>(Responding<B>);

/// The service that takes requests with an expectation, and the one that takes all others, for `app`.
#[allow(
    clippy::type_complexity,
    reason = "an alias cannot name `impl` types, and each of them is named once"
)]
pub(super) fn services<F, B>(
    app: F,
) -> (
    impl ServiceFactory<
        Request,
        Config = (),
        Response = Request,
        Error = Response<BoxBody>,
        InitError = Infallible,
        Future: 'static,
    >,
    impl ServiceFactory<
        Request,
        Config = (),
        Response = Response<Tracked<B>>,
        Error = Response<BoxBody>,
        InitError = F::InitError,
        Future: 'static,
        Service: Service<Request, Future: 'static>,
    >,
)
where
    F: ServiceFactory<Request, Config = (), Error = Response<BoxBody>> + 'static,
    F::Response: Into<Response<B>> + 'static,
    F::Service: 'static,
    <F::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let shared: Shared<F::Service> = Rc::default();
    let expecting = Rc::clone(&shared);
    let expecting = fn_factory(move || {
        let shared = Rc::clone(&expecting);
        let service = fn_service(move |request| serve_expecting(request, Rc::clone(&shared)));
        std::future::ready(Ok::<_, Infallible>(service))
    });
    let app = fn_factory(move || {
        let (app, shared) = (app.new_service(()), Rc::clone(&shared));
        async move {
            let app = Rc::new(app.await?);
            *shared.borrow_mut() = Some(Rc::clone(&app));
            Ok(app)
        }
    });
    (expecting, apply_fn_factory(app, serve))
}

fn serve<S, B>(
    request: Request,
    app: &Rc<S>,
) -> impl Future<Output = Result<Response<Tracked<B>>, Response<BoxBody>>> + use<S, B>
where
    S: Service<Request, Error = Response<BoxBody>>,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
{
    let resumed = request.extensions_mut().remove::<Resumed<B>>();
    match resumed {
        Some(Resumed(responding)) => Either::Left(responding),
        None => Either::Right(track(request, &**app)),
    }
}

/// Serves a request whose client waits. Returns what stands for the request when the client may go on, and otherwise the
/// response as an error.
async fn serve_expecting<S, B>(
    mut request: Request,
    app: Shared<S>,
) -> Result<Request, Response<BoxBody>>
where
    S: Service<Request, Error = Response<BoxBody>> + 'static,
    S::Response: Into<Response<B>> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let app = app.borrow().clone();
    // Both services of a thread exist before its first connection.
    let Some(app) = app else { return Ok(request) };
    let waiting = Rc::<Waiting>::default();
    let payload = Rc::new(RefCell::new(request.take_payload()));
    let watched = Watched {
        payload: Rc::clone(&payload),
        waiting: Rc::clone(&waiting),
    };
    *request.payload() = Payload::Stream {
        payload: Box::pin(watched),
    };
    let mut responding: Responding<B> = Box::pin(track(request, &*app));
    let response = poll_fn(|cx| match responding.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => waiting.poll(cx).map(|()| None),
    });
    match response.await {
        Some(Ok(response)) => Err(unread(response, payload)),
        Some(Err(refusal)) => Err(unread(refusal, payload)),
        None => {
            let resumed = Request::new();
            resumed.extensions_mut().insert(Resumed(responding));
            Ok(resumed)
        }
    }
}

/// A response that comes while the body of the request may never come. actix-http would wait for the rest of a body
/// that nobody holds any more; one that is held has it close the connection after the response.
fn unread<B: MessageBody + 'static>(
    response: Response<B>,
    payload: Rc<RefCell<Payload>>,
) -> Response<BoxBody> {
    response.map_body(|_, body| BoxBody::new(Holding::new(body, payload)))
}

/// Whether the handler waits for the body of its request. It may do so in another task.
#[derive(Default)]
struct Waiting {
    is_waiting: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Waiting {
    fn set(&self) {
        self.is_waiting.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_waiting.get() {
            return Poll::Ready(());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// A request body that tells when somebody waits for it.
struct Watched {
    payload: Rc<RefCell<Payload>>,
    waiting: Rc<Waiting>,
}

impl Stream for Watched {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut *self.payload.borrow_mut()).poll_next(cx);
        if polled.is_pending() {
            self.waiting.set();
        }
        polled
    }
}
