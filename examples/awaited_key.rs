//! A key that must be awaited: a layer in front of the limit looks up the user in a session store.
//!
//! Run: `cargo run --example awaited_key`

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, FromRequestParts};
use axum::http::{Request, StatusCode, request::Parts};
use axum::middleware::from_extractor_with_state;
use axum::routing::get;
use tower::ServiceExt;
use tower_sluice::key::{Extension, Keep, ToKey};
use tower_sluice::{Key, MemoryBackend, Policy, Quota, RateLimitLayer};

/// A stand-in for a store on the network.
#[derive(Clone)]
struct Sessions;

impl Sessions {
    async fn user(&self, session: &str) -> Option<User> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        match session {
            "phone" | "laptop" => Some(User(1)),
            "elsewhere" => Some(User(2)),
            _ => None,
        }
    }
}

#[derive(Clone)]
struct User(u64);

/// The key is the user and not the session, because a user may have many sessions.
impl ToKey for User {
    fn to_key(&self) -> Key {
        self.0.into()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for User
where
    Sessions: FromRef<S>,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let session = parts.headers.get("x-session");
        let session = session.and_then(|session| session.to_str().ok());
        let session = session.ok_or(StatusCode::UNAUTHORIZED)?;
        let user = Sessions::from_ref(state).user(session).await;
        user.ok_or(StatusCode::UNAUTHORIZED)
    }
}

fn app() -> Router {
    let policy = Policy::new("per-user", Quota::per_hour(2));
    let limit = RateLimitLayer::new(policy, Extension::<User>::new(), MemoryBackend::new());
    Router::new()
        .route("/", get(hello))
        .layer(limit)
        .layer(from_extractor_with_state::<Keep<User>, _>(Sessions)) // added last, runs first
}

/// Reads the user from the extensions, without a second lookup.
async fn hello(axum::Extension(user): axum::Extension<User>) -> String {
    format!("hello {}", user.0)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = app();
    for (session, status) in [
        ("phone", 200),
        ("laptop", 200),
        ("phone", 429),
        ("elsewhere", 200),
        ("stolen", 401), // the rejection of the extractor
    ] {
        let request = Request::get("/").header("x-session", session);
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        println!("{session}: {}", response.status());
        assert_eq!(response.status(), status);
    }
    Ok(())
}
