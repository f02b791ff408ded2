use std::task::{Context, Poll};

use http::{Request, Version};
use http_body::Body;
use tower_service::Service;

use super::body::DrainBody;
use super::bounds::Bounds;
use crate::response::is_call;

/// A service whose unread request bodies are drained; see [`DrainLayer`](super::DrainLayer).
#[derive(Clone, Debug)]
pub struct Drain<S> {
    inner: S,
    bounds: Bounds,
}

impl<S> Drain<S> {
    pub(super) const fn new(inner: S, bounds: Bounds) -> Self {
        Self { inner, bounds }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Converts into the inner service, without the drain.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for Drain<S>
where
    S: Service<Request<DrainBody<B>>>,
    B: Body + Send + Unpin + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let (head, body) = request.into_parts();
        let is_drained = !self.bounds.allow_nothing()
            && head.version <= Version::HTTP_11
            && !body.is_end_stream()
            && !is_call(&head.method, &head.headers);
        let body = if is_drained {
            DrainBody::drained(body, self.bounds, &head.headers)
        } else {
            DrainBody::plain(body)
        };
        self.inner.call(Request::from_parts(head, body))
    }
}
