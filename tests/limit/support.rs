//! Shared by all parts: a stopped clock, layers that allow two requests a minute, and servers on real sockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::key::Header;
use tower_sluice::{Key, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

pub(crate) type Memory = MemoryBackend<ManualClock>;

/// The longest time that a test waits for anything. A test that hangs fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000))
}

pub(crate) fn memory() -> Memory {
    MemoryBackend::builder().clock(clock()).build()
}

/// A bucket of two tokens that refills one token in 30 seconds.
pub(crate) fn two_a_minute() -> Policy {
    Policy::new("api", Quota::per_minute(2))
}

pub(crate) const USER: &str = "x-user";

/// Two requests for each user, with a stopped clock.
pub(crate) fn by_user() -> RateLimitLayer<Header, Memory> {
    RateLimitLayer::new(two_a_minute(), Header::new(USER), memory())
}

pub(crate) fn from(user: &str) -> Request<()> {
    Request::builder()
        .header(USER, user)
        .body(())
        .expect("a valid head")
}

/// A response as a client sees it.
#[derive(Debug)]
pub(crate) struct ClientResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl ClientResponse {
    pub(crate) async fn of<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Self {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body.into()).expect("text"),
        }
    }

    /// The lines of a field.
    pub(crate) fn lines(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.get_all(name).iter();
        lines.map(|line| line.to_str().expect("ASCII")).collect()
    }

    /// The head in alphabetical order.
    pub(crate) fn head(&self) -> Vec<(&str, &str)> {
        let mut head: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")))
            .collect();
        head.sort_unstable();
        head
    }

    pub(crate) fn has_no_rate_limit_fields(&self) -> bool {
        !self
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("ratelimit"))
    }
}

/// An HTTP service that answers 200 and "hello".
pub(crate) fn hello<B: Send + 'static>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    tower::service_fn(|_: Request<B>| async { Ok(Response::new(Full::from("hello"))) })
}

/// The response of a service that is ready and answers without waiting.
pub(crate) fn now<S, Req>(service: &mut S, request: Req) -> Result<S::Response, S::Error>
where
    S: Service<Req>,
{
    async { service.ready().await?.call(request).await }
        .now_or_never()
        .expect("an answer at once")
}

/// Like [`now`], with the body.
pub(crate) fn seen<S, Req, B>(service: &mut S, request: Req) -> ClientResponse
where
    S: Service<Req, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let response = now(service, request).expect("no error");
    ClientResponse::of(response)
        .now_or_never()
        .expect("a body at once")
}

/// Like [`seen`], and waits for the response.
pub(crate) async fn ask<S, Req, B>(service: &mut S, request: Req) -> ClientResponse
where
    S: Service<Req, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let answer = async {
        let ready = service.ready().await.expect("ready");
        let response = ready.call(request).await.expect("no error");
        ClientResponse::of(response).await
    };
    timeout(TIMEOUT, answer).await.expect("an answer in time")
}

/// Lets all other tasks run until they wait for time.
pub(crate) async fn run_other_tasks() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The tokens that each quota lacks.
pub(crate) fn spent(backend: &Memory, policy: &Policy, key: &Key) -> Vec<u64> {
    let limiter = Limiter::new(policy.clone(), backend.clone());
    let reply = limiter.check_now(key, 0);
    let quotas = reply.decision.snapshot().quotas().iter();
    quotas
        .map(|quota| quota.limit() - quota.remaining())
        .collect()
}

pub(crate) async fn listen() -> (tokio::net::TcpListener, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A client whose connections come from `127.0.0.last`.
pub(crate) fn client(last: u8) -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some([127, 0, 0, last].into()));
    Client::builder(TokioExecutor::new()).build(connector)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://{address}{path}"))
        .body(Full::default())
        .expect("a valid head")
}
