//! The recipe for failed logins of the guide, with a clock that is set by hand.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_sluice::clock::ManualClock;
use tower_sluice::key::{Header, KeyExtractor};
use tower_sluice::{Charge, Decision, Limiter, MemoryBackend, Policy, Quota, RateLimitLayer};

use crate::support::{Memory, clock};

const BLOCKS: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(3_600),
];

async fn escalate(
    attempts: Limiter<Memory>,
    blocks: Limiter<Memory>,
    request: Request,
    next: Next,
) -> Response {
    let account = Header::new("x-account").key(&request);
    let response = next.run(request).await;
    let Ok(account) = account else {
        return response;
    };
    let decision = response.extensions().get::<Decision>();
    let is_last = decision
        .is_some_and(|decision| decision.is_allowed() && decision.snapshot().remaining() == 0);
    match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_last => {
            let Ok(reply) = blocks.check(&account, 1).await;
            let left = usize::try_from(reply.decision.snapshot().remaining()).unwrap_or(0);
            let duration = BLOCKS[BLOCKS.len().saturating_sub(1 + left)];
            let Ok(()) = attempts.block(&account, duration).await;
            // The next round has five attempts. The block stays.
            let Ok(_) = attempts.reset(&account).await;
        }
        status if status.is_success() => {
            let Ok(_) = attempts.reset(&account).await;
            let Ok(_) = blocks.reset(&account).await;
        }
        _ => {}
    }
    response
}

fn app(backend: &Memory) -> Router {
    let quarter = Duration::from_secs(900);
    let attempts = Policy::new("logins", Quota::sliding_log(5, quarter));
    let blocks = Quota::total(3).forget_after(Duration::from_secs(86_400));
    let attempts = Limiter::new(attempts, backend.clone());
    let blocks = Limiter::new(Policy::new("login-blocks", blocks), backend.clone());
    let limit = RateLimitLayer::new(
        attempts.policy().clone(),
        Header::new("x-account"),
        backend.clone(),
    )
    .response_extensions(true)
    .on_response(|parts, charge: &Charge| {
        if !matches!(
            parts.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            drop(charge.cancel());
        }
    });
    let check = async |request: Request| {
        let text = |name: &str| {
            request
                .headers()
                .get(name)
                .map_or("", |value| value.to_str().unwrap_or(""))
        };
        match (text("x-account"), text("x-password")) {
            ("ann", "right") => (StatusCode::OK, "welcome"),
            (_, "broken") => (StatusCode::INTERNAL_SERVER_ERROR, "a bug"),
            _ => (StatusCode::UNAUTHORIZED, "wrong name or password"),
        }
    };
    Router::new()
        .route("/login", post(check))
        .layer(limit)
        .layer(from_fn(move |request, next| {
            escalate(attempts.clone(), blocks.clone(), request, next)
        }))
}

struct Fixture {
    app: Router,
    clock: ManualClock,
}

impl Fixture {
    fn new() -> Self {
        let clock = clock();
        let backend = MemoryBackend::builder().clock(clock.clone()).build();
        Self {
            app: app(&backend),
            clock,
        }
    }

    /// The whole answer: status, header fields, and body.
    async fn login(&self, account: &str, password: &str) -> (u16, String, String) {
        let request = Request::post("/login")
            .header("x-account", account)
            .header("x-password", password);
        let request = request.body(Body::empty()).expect("a valid head");
        let response = self.app.clone().oneshot(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (
            head.status.as_u16(),
            format!("{:?}", head.headers),
            String::from_utf8(body.into()).expect("text"),
        )
    }

    async fn status(&self, account: &str, password: &str) -> u16 {
        self.login(account, password).await.0
    }
}

#[tokio::test]
async fn failed_logins_block_an_account_for_longer_and_longer() {
    let fixture = Fixture::new();
    for minutes in [1, 5, 60, 60] {
        for _ in 0..5 {
            assert_eq!(fixture.status("ann", "wrong").await, 401, "{minutes}");
        }
        let (status, headers, _) = fixture.login("ann", "right").await;
        assert_eq!(status, 429, "{minutes}");
        let wait = format!("\"retry-after\": \"{}\"", minutes * 60);
        assert!(headers.contains(&wait), "{headers}");
        fixture
            .clock
            .advance(Duration::from_secs(minutes * 60) - Duration::from_micros(1));
        assert_eq!(fixture.status("ann", "right").await, 429);
        fixture.clock.advance(Duration::from_micros(1));
    }
    assert_eq!(fixture.status("ann", "right").await, 200);
    // The success has cleared the account: five attempts, then a block of a minute.
    for _ in 0..5 {
        assert_eq!(fixture.status("ann", "wrong").await, 401);
    }
    fixture.clock.advance(Duration::from_secs(60));
    assert_eq!(fixture.status("ann", "right").await, 200);
}

#[tokio::test]
async fn only_wrong_passwords_count() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        assert_eq!(fixture.status("ann", "broken").await, 500);
    }
    for _ in 0..4 {
        assert_eq!(fixture.status("ann", "wrong").await, 401);
    }
    assert_eq!(fixture.status("ann", "right").await, 200);
    for _ in 0..5 {
        assert_eq!(fixture.status("ann", "wrong").await, 401);
    }
    assert_eq!(fixture.status("ann", "wrong").await, 429);
    // After 15 minutes the failures of another account are forgotten.
    for _ in 0..4 {
        assert_eq!(fixture.status("bob", "wrong").await, 401);
    }
    fixture.clock.advance(Duration::from_secs(900));
    for _ in 0..4 {
        assert_eq!(fixture.status("bob", "wrong").await, 401);
    }
}

#[tokio::test]
async fn unknown_account_gets_the_same_answers_as_a_known_one() {
    let fixture = Fixture::new();
    for attempt in 0..12 {
        let known = fixture.login("ann", "wrong").await;
        let unknown = fixture.login("nobody", "wrong").await;
        assert_eq!(known, unknown, "{attempt}");
        if attempt == 8 {
            fixture.clock.advance(Duration::from_secs(60));
        }
    }
}
