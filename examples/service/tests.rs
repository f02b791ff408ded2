//! The service in virtual time, without sockets where none is needed.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Request, Response};
use axum::routing::post;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt as _;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::key::ToKey as _;
use tower_sluice::{AnyBackend, Limiter, MaxWait, MemoryBackend, Policy};

use crate::config::{Config, EXAMPLE};
use crate::customers::Customer;
use crate::routes::{AppState, admin, public, run_report};

const ANN: Customer = Customer {
    id: 1,
    is_paid: false,
};

/// The service with small quotas, and the clock of its limits.
struct Tested {
    clock: ManualClock,
    config: Config,
    state: AppState,
    app: Router,
}

async fn service(change: impl FnOnce(&mut Config)) -> Tested {
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let memory = MemoryBackend::builder().clock(clock.clone()).build();
    service_over(memory.into(), clock, change).await
}

async fn service_over(
    backend: AnyBackend,
    clock: ManualClock,
    change: impl FnOnce(&mut Config),
) -> Tested {
    let mut config: Config = toml::from_str(EXAMPLE).expect("the file of the example");
    config.quotas.free = "2/minute".parse().expect("a quota");
    change(&mut config);
    let state = AppState::new(config.clone(), backend).expect("a valid configuration");
    let peer = SocketAddr::from(([10, 0, 0, 1], 4711)); // the trusted proxy
    let app = public(state.clone()).layer(MockConnectInfo(peer));
    Tested {
        clock,
        config,
        state,
        app,
    }
}

impl Tested {
    async fn send(&self, request: Request<Body>) -> Response<Body> {
        let Ok(response) = self.app.clone().oneshot(request).await;
        response
    }

    async fn search(&self, api_key: &str) -> u16 {
        self.send(
            from(api_key, "GET", "/search")
                .body(Body::empty())
                .expect("valid"),
        )
        .await
        .status()
        .as_u16()
    }

    async fn turn(&self, switch: &str) -> u16 {
        let request = Request::put(format!("/limits/{switch}")).body(Body::empty());
        let Ok(response) = admin(self.state.limits.clone())
            .oneshot(request.expect("valid"))
            .await;
        response.status().as_u16()
    }

    /// Returns the remaining tokens of ann under a quota.
    async fn left(&self, name: &str, quota: &tower_sluice::Quota) -> u64 {
        let policy = Policy::new(name, *quota);
        let limiter = Limiter::new(policy, self.state.limits.backend.clone());
        limiter
            .peek(&ANN.to_key())
            .await
            .expect("memory")
            .remaining()
    }
}

fn from(api_key: &str, method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("x-api-key", api_key)
}

#[tokio::test]
async fn tiers_are_those_of_the_database_and_time_is_virtual() {
    let service = service(|_| ()).await;
    let mut statuses = Vec::new();
    for api_key in ["ann", "ann", "ann", "bob", "stranger"] {
        statuses.push(service.search(api_key).await);
    }
    assert_eq!(statuses, [200, 200, 429, 200, 401]);
    let offenders = service
        .state
        .limits
        .offenders
        .lock()
        .expect("no panic")
        .clone();
    assert_eq!(offenders, [(ANN.to_key(), 1)].into());
    service.clock.advance(Duration::from_secs(30));
    assert_eq!(
        [service.search("ann").await, service.search("ann").await],
        [200, 429]
    );
}

#[tokio::test]
async fn addresses_behind_the_proxy_have_limits_of_their_own() {
    let service =
        service(|config| config.quotas.visitors = "1/minute".parse().expect("a quota")).await;
    let get = async |client: &str| {
        let request = from("bob", "GET", "/search").header("x-forwarded-for", client);
        service
            .send(request.body(Body::empty()).expect("valid"))
            .await
            .status()
            .as_u16()
    };
    assert_eq!(
        [
            get("192.0.2.1").await,
            get("192.0.2.1").await,
            get("192.0.2.2").await
        ],
        [200, 429, 200]
    );
}

#[tokio::test]
async fn uploads_are_charged_the_bytes_that_arrive() {
    let service = service(|config| {
        config.quotas.free = "100/minute".parse().expect("a quota");
        config.quotas.uploads = "1kB/day".parse().expect("a quota");
        config.max_upload = 500;
    })
    .await;
    let left = async || {
        service
            .left("uploads", &service.config.quotas.uploads)
            .await
    };
    let put = async |length: Option<usize>, body: Body| {
        let request = from("ann", "PUT", "/upload");
        let request = match length {
            Some(length) => request.header(CONTENT_LENGTH, length),
            None => request,
        };
        service
            .send(request.body(body).expect("valid"))
            .await
            .status()
            .as_u16()
    };
    assert_eq!(put(None, Body::from("x")).await, 411);
    assert_eq!(
        (
            put(Some(100), Body::from("x".repeat(100))).await,
            left().await
        ),
        (200, 900)
    );
    // The client disconnects after 30 of 300 bytes.
    let parts = [Ok("x".repeat(30)), Err(io::Error::other("disconnected"))];
    assert_eq!(
        put(Some(300), Body::from_stream(stream::iter(parts))).await,
        400
    );
    assert_eq!(left().await, 870);
    assert_eq!(
        (
            put(Some(600), Body::from("x".repeat(600))).await,
            left().await
        ),
        (413, 270),
        "they have arrived"
    );
    assert_eq!(
        (put(Some(900), Body::empty()).await, left().await),
        (429, 270)
    );
}

#[tokio::test]
async fn switch_turns_all_limits_off_and_on() {
    let service = service(|_| ()).await;
    for expected in [200, 200, 429] {
        assert_eq!(service.search("ann").await, expected);
    }
    assert_eq!(service.turn("off").await, 204);
    let request = from("ann", "GET", "/search")
        .body(Body::empty())
        .expect("valid");
    let response = service.send(request).await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers().get("ratelimit")
        ),
        (200, None)
    );
    assert_eq!(service.turn("on").await, 204);
    assert_eq!(service.search("ann").await, 429);
}

#[tokio::test]
async fn job_waits_for_its_share_of_the_budget() {
    let service = service(|config| config.quotas.free = "5/minute".parse().expect("a quota")).await;
    assert_eq!(service.search("ann").await, 200);
    let job = run_report(&service.state.limits, &ANN);
    tokio::pin!(job);
    assert_eq!(job.as_mut().now_or_never(), None, "4 of 5 are left");
    service.clock.advance(Duration::from_secs(12));
    assert!(job.await);
    assert_eq!(
        service.search("ann").await,
        429,
        "the job has spent the budget"
    );
}

/// An upstream that answers each request with a word, and another one when it may.
async fn model() -> (String, tokio::sync::mpsc::Sender<&'static str>) {
    let (words, receiver) = tokio::sync::mpsc::channel::<&'static str>(10);
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    let answer = async move || {
        let words = stream::unfold(receiver, async |receiver| {
            let word = receiver.lock().await.recv().await?;
            Some((Ok::<_, Infallible>(word), receiver))
        });
        Body::from_stream(words)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let app = Router::new().route("/", post(answer));
    tokio::spawn(axum::serve(listener, app).into_future());
    (url, words)
}

#[tokio::test]
async fn answers_are_charged_their_tokens_even_if_the_client_leaves() {
    let (url, words) = model().await;
    let service = service(|config| config.model = url).await;
    let left = async || service.left("tokens", &service.config.quotas.tokens).await;
    let all = left().await;
    let ask = from("ann", "POST", "/ask")
        .body(Body::from("why?"))
        .expect("valid");
    let response = service.send(ask).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    words.send("it is so ").await.expect("a model");
    let chunk = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(chunk.into_data().expect("data"), "it is so ");
    assert_eq!(left().await, all - 500, "the estimate");
    drop(body); // the client leaves
    assert_eq!(left().await, all - 3);
}

#[tokio::test]
async fn question_without_an_answer_is_free() {
    let service = service(|config| config.model = "http://127.0.0.1:1/".into()).await;
    let left = async || service.left("tokens", &service.config.quotas.tokens).await;
    let all = left().await;
    let ask = from("ann", "POST", "/ask")
        .body(Body::from("why?"))
        .expect("valid");
    assert_eq!(service.send(ask).await.status(), 502);
    assert_eq!(left().await, all);
}

/// Serves on a socket, for the protocols that need one.
async fn listen(service: &Tested) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let app = public(service.state.clone()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

#[tokio::test]
async fn messages_of_a_socket_spend_the_budget_of_requests() {
    let service = service(|config| config.quotas.free = "3/minute".parse().expect("a quota")).await;
    let address = listen(&service).await;
    let stream = TcpStream::connect(address).await.expect("a server");
    let request = tokio_tungstenite::tungstenite::ClientRequestBuilder::new(
        format!("ws://{address}/chat").parse().expect("a URL"),
    )
    .with_header("x-api-key", "ann");
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .expect("a handshake"); // costs 1
    let mut replies = Vec::new();
    for _ in 0..3 {
        let message = tokio_tungstenite::tungstenite::Message::text("hi");
        socket.send(message).await.expect("an open socket");
        let reply = socket.next().await.expect("a reply").expect("no error");
        replies.push(reply.into_text().expect("text").to_string());
    }
    assert_eq!(replies[..2], ["echo: hi", "echo: hi"]);
    assert!(replies[2].starts_with("rate limit exceeded"), "{replies:?}");
    assert_eq!(service.search("ann").await, 429);
}

#[tokio::test]
async fn grpc_calls_are_limited_too() {
    let service =
        service(|config| config.quotas.visitors = "1/minute".parse().expect("a quota")).await;
    let address = listen(&service).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.expect("a URL").connect().await;
    let mut health = HealthClient::new(channel.expect("a server"));
    health
        .check(HealthCheckRequest::default())
        .await
        .expect("an answer");
    let error = health
        .check(HealthCheckRequest::default())
        .await
        .expect_err("a rejection");
    assert_eq!(error.code(), tonic::Code::ResourceExhausted);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn service_works_without_its_redis() {
    let backend = AnyBackend::from_url("redis://127.0.0.1:1/").expect("a URL");
    let clock = ManualClock::at(Timestamp::default());
    let service = service_over(backend, clock, |_| ()).await;
    for _ in 0..4 {
        assert_eq!(
            service.search("ann").await,
            200,
            "two are allowed while Redis is up"
        );
    }
    assert!(run_report(&service.state.limits, &ANN).await);
    let budget = service.state.limits.budget(&ANN);
    let allowed = budget.acquire(&ANN.to_key(), 1, MaxWait::NONE).await;
    assert!(allowed.expect("allowed").is_none(), "without a charge");
}
