//! Services whose responses and bodies end when the test says so.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};
use tower::Service;
use tower_sluice::backend::{self, BackendContext};
use tower_sluice::clock::ManualClock;
use tower_sluice::key::Header;
use tower_sluice::semaphore::{PermitBackend, PermitOp, PermitReply};
use tower_sluice::{Key, MemorySemaphore, SemaphoreLayer, SemaphorePolicy};

use crate::support::{USER, clock};

pub(crate) type Memory = MemorySemaphore<ManualClock>;

pub(crate) fn memory() -> Memory {
    MemorySemaphore::builder().clock(clock()).build()
}

/// Memory whose replies come later, when the test releases them.
#[derive(Clone)]
pub(crate) struct Later(pub(crate) Memory, pub(crate) Arc<tokio::sync::Semaphore>);

impl PermitBackend for Later {
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<PermitReply, Infallible>> + Send>>;

    fn ask(
        &self,
        op: PermitOp,
        permits: &SemaphorePolicy,
        key: &Key,
    ) -> backend::Answer<Result<PermitReply, Infallible>, Self::Future> {
        let (later, permits, key) = (self.clone(), permits.clone(), key.clone());
        backend::Answer::Later(Box::pin(async move {
            later.1.acquire().await.expect("open").forget();
            match later.0.ask(op, &permits, &key) {
                backend::Answer::Now(reply) => reply,
                backend::Answer::Later(reply) => reply.await,
            }
        }))
    }

    fn context(&self) -> &BackendContext {
        self.0.context()
    }

    fn has_leases(&self) -> bool {
        self.0.has_leases()
    }

    fn next_attempt(
        &self,
        permits: &SemaphorePolicy,
        reply: &PermitReply,
        waiters: usize,
    ) -> Option<Duration> {
        self.0.next_attempt(permits, reply, waiters)
    }
}

/// At most two requests of each user at a time.
pub(crate) fn two_each(memory: &Memory) -> SemaphoreLayer<Header, Memory> {
    let permits = SemaphorePolicy::new("exports", 2);
    SemaphoreLayer::new(permits, Header::new(USER), memory.clone())
}

/// A body that the test feeds.
pub(crate) struct Fed(mpsc::UnboundedReceiver<Result<Frame<Bytes>, &'static str>>);

pub(crate) type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, &'static str>>;

impl Body for Fed {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.0.poll_recv(cx)
    }
}

pub(crate) fn fed() -> (Feed, Response<Fed>) {
    let (feed, body) = mpsc::unbounded_channel();
    (feed, Response::new(Fed(body)))
}

/// The sender of the response that a request of a [`reported`] service waits for.
pub(crate) type Answer = oneshot::Sender<Result<Response<Fed>, &'static str>>;

/// The calls of a [`reported`] service.
pub(crate) type Calls = mpsc::UnboundedReceiver<(Request<()>, Answer)>;

/// The HTTP services of these tests.
pub(crate) trait Serves<B, E>:
    Service<Request<()>, Response = Response<B>, Error = E, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<B, E, S> Serves<B, E> for S where
    S: Service<Request<()>, Response = Response<B>, Error = E, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}

/// A service whose responses come from the test.
pub(crate) fn reported() -> (impl Serves<Fed, &'static str>, Calls) {
    let (calls, called) = mpsc::unbounded_channel();
    let calls = Arc::new(calls);
    let service = tower::service_fn(move |request: Request<()>| {
        let (answer, answered) = oneshot::channel();
        calls.send((request, answer)).expect("the test listens");
        async move { answered.await.expect("the test answers") }
    });
    (service, called)
}

/// A body that never ends.
pub(crate) fn endless() -> impl Serves<Endless, Infallible> {
    tower::service_fn(async |_: Request<()>| Ok(Response::new(Endless)))
}

pub(crate) struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}
