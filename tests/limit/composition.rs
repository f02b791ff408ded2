//! A limited axum service has the type of an unlimited one, so that the layers of Tower that choose between both compile.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::layer::util::Identity;
use tower::util::{BoxCloneService, BoxCloneSyncServiceLayer, Either, option_layer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::response::{BodyMode, ResponseBody, WrapBody};
use tower_sluice::{Global, MemorySemaphore, Policy, Quota, SemaphoreLayer, SemaphorePolicy};

use crate::support::{Memory, client, listen, memory};

type Limit = tower_sluice::RateLimitLayer<Global, Memory>;

/// Allows one request.
fn one() -> Limit {
    Limit::new(Policy::new("one", Quota::per_hour(1)), Global, memory())
}

/// Allows no request.
fn full() -> SemaphoreLayer<Global, MemorySemaphore> {
    let policy = SemaphorePolicy::new("full", 1);
    SemaphoreLayer::new(policy, Global, MemorySemaphore::new())
}

fn routes() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// The statuses of two requests.
async fn statuses<S>(service: S) -> [u16; 2]
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let answer = service.clone().oneshot(Request::new(Body::empty())).await;
        let Ok(response) = answer;
        *status = response.status().as_u16();
    }
    statuses
}

#[tokio::test]
async fn limit_can_be_optional() {
    for (limit, expected) in [(Some(one()), [200, 429]), (None, [200, 200])] {
        let app = routes().layer(option_layer(limit));
        assert_eq!(statuses(app).await, expected);
    }
    let semaphore = full().weight(2);
    for (limit, expected) in [(Some(semaphore), [429; 2]), (None, [200, 200])] {
        let app = routes().layer(option_layer(limit));
        assert_eq!(statuses(app).await, expected);
    }
}

#[tokio::test]
async fn one_of_two_limits_can_be_chosen() {
    let semaphore = full().weight(2);
    let chosen: [Either<Limit, _>; 2] = [Either::Left(one()), Either::Right(semaphore)];
    for (limit, expected) in chosen.into_iter().zip([[200, 429], [429, 429]]) {
        assert_eq!(statuses(routes().layer(limit)).await, expected);
    }
    let none: Either<Limit, Identity> = Either::Right(Identity::new());
    assert_eq!(statuses(routes().layer(none)).await, [200, 200]);
}

#[tokio::test]
async fn limited_service_can_be_boxed() {
    type Boxed = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

    let limited: Boxed = BoxCloneService::new(one().layer(routes()));
    assert_eq!(statuses(limited).await, [200, 429]);
    let unlimited: Boxed = BoxCloneService::new(routes());
    assert_eq!(statuses(unlimited).await, [200, 200]);
    let several = ServiceBuilder::new().layer(full()).layer(one());
    let limited: Boxed = BoxCloneService::new(several.service(routes()));
    assert_eq!(statuses(limited).await, [200, 429]);
}

#[tokio::test]
async fn layer_can_be_boxed() {
    let layer =
        BoxCloneSyncServiceLayer::<Router, Request<Body>, Response<Body>, Infallible>::new(one());
    assert_eq!(statuses(layer.layer(routes())).await, [200, 429]);
}

/// The body of a response through a limited client of hyper.
async fn fetched<M>(limit: impl Fn(Limit) -> LimitOf<M>) -> (M::Body, M::Body)
where
    M: BodyMode<Incoming>,
{
    let (listener, address) = listen().await;
    tokio::spawn(axum::serve(listener, routes()).into_future());
    let mut client = limit(one()).layer(client(1));
    let mut get = async || {
        let request = Request::get(format!("http://{address}/")).body(Full::<Bytes>::default());
        let ready = client.ready().await.expect("a client is ready");
        let response = ready.call(request.expect("a valid head")).await;
        response.expect("an answer").into_body()
    };
    (get().await, get().await)
}

type LimitOf<M> = tower_sluice::RateLimitLayer<
    Global,
    Memory,
    tower_sluice::Cost,
    tower_sluice::limiter::Unspecified,
    tower_sluice::response::Http<
        tower_sluice::response::Problem,
        tower_sluice::response::NoHook,
        M,
    >,
>;

async fn text(body: impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>) -> String {
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn body_of_hyper_works_in_both_modes() {
    let (hello, rejected): (Body, Body) = fetched(|limit| limit).await;
    assert_eq!(text(hello).await, "hello");
    assert!(text(rejected).await.contains("quota-exceeded"));

    let wrapped = fetched::<WrapBody>(Limit::wrap_body).await;
    let (hello, rejected): (ResponseBody<Incoming>, ResponseBody<Incoming>) = wrapped;
    assert_eq!(text(hello).await, "hello");
    assert!(text(rejected).await.contains("quota-exceeded"));
}

#[cfg(feature = "tonic")]
#[tokio::test]
async fn body_of_tonic_works_in_both_modes() {
    let routes = || {
        tower::service_fn(|_: Request<()>| async {
            let body = tonic::body::Body::new(Full::<Bytes>::from("hello"));
            Ok::<_, Infallible>(Response::new(body))
        })
    };
    let Ok(response) = one().layer(routes()).oneshot(Request::new(())).await;
    let body: Body = response.into_body();
    assert_eq!(text(body).await, "hello");
    let limit = one().wrap_body();
    let Ok(response) = limit.layer(routes()).oneshot(Request::new(())).await;
    let body: ResponseBody<tonic::body::Body> = response.into_body();
    assert_eq!(text(body).await, "hello");
}

/// A body that is not `Send` works in a wrapper.
#[tokio::test]
async fn body_that_cannot_be_sent_is_wrapped() {
    struct Local(std::rc::Rc<str>);

    impl http_body::Body for Local {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            let rest = std::mem::take(&mut self.0);
            let frame = (!rest.is_empty()).then(|| {
                Ok(http_body::Frame::data(Bytes::copy_from_slice(
                    rest.as_bytes(),
                )))
            });
            std::task::Poll::Ready(frame)
        }
    }

    let local = tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Local("hello".into())))
    });
    let limit = one().wrap_body();
    let Ok(response) = limit.layer(local).oneshot(Request::new(())).await;
    assert_eq!(text(response.into_body()).await, "hello");
}
