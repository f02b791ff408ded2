//! The route that blocks a key. Only the holder of the token of `--admin-token` may use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::http::header::{AUTHORIZATION, COOKIE, HeaderMap};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::Request;
use tower_sluice::key::{ArcKey, KeyExtractor as _};
use tower_sluice::{AnyBackend, Limiter};

pub(crate) struct Admin {
    pub(crate) token: String,
    /// The text of `--key`, which tells where a request has its key.
    pub(crate) keyed_by: String,
    pub(crate) key: ArcKey<Request<Body>>,
    pub(crate) limiter: Limiter<AnyBackend>,
}

impl Admin {
    /// Adds `POST /block/{key}/{seconds}`. It blocks a key for this time; 0 ends a block.
    pub(crate) fn serve_beside(self, app: Router) -> Router {
        let admin = Arc::new(self);
        let block = move |Path((key, seconds)): Path<(String, u64)>, headers: HeaderMap| async move {
            admin
                .block(&key, Duration::from_secs(seconds), &headers)
                .await
        };
        app.route("/block/{key}/{seconds}", post(block))
    }

    async fn block(&self, value: &str, duration: Duration, headers: &HeaderMap) -> Response {
        let token = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if !token.is_some_and(|token| is_same(token, self.token.as_bytes())) {
            return (
                StatusCode::UNAUTHORIZED,
                "send the token: `Authorization: Bearer TOKEN`\n",
            )
                .into_response();
        }
        let key = match self.request_of(value).map(|request| self.key.key(&request)) {
            Ok(Ok(key)) => key,
            Ok(Err(error)) => {
                return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response();
            }
            Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
        };
        match self.limiter.block(&key, duration).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        }
    }

    /// Builds a request of the client with this key.
    fn request_of(&self, value: &str) -> Result<Request<Body>, String> {
        let request = Request::builder();
        let request = match self.keyed_by.split_once(':') {
            Some(("header", name)) => request.header(name, value),
            Some(("cookie", name)) => request.header(COOKIE, format!("{name}={value}")),
            Some(("query", name)) => request.uri(format!("/?{name}={value}")),
            _ if self.keyed_by == "bearer" => {
                request.header(AUTHORIZATION, format!("Bearer {value}"))
            }
            _ if self.keyed_by == "path" => {
                request.uri(Uri::try_from(format!("/{value}")).map_err(|error| error.to_string())?)
            }
            _ if self.keyed_by == "ip" => {
                let address = value
                    .parse()
                    .map_err(|_| "use an address, such as 192.0.2.7".to_owned())?;
                request.extension(ConnectInfo(SocketAddr::new(address, 0)))
            }
            _ => request,
        };
        request
            .body(Body::empty())
            .map_err(|error| error.to_string())
    }
}

/// Compares in a time that depends on the sent token alone, so that the time shows nothing of the other one.
fn is_same(sent: &[u8], token: &[u8]) -> bool {
    let mut difference = sent.len() ^ token.len();
    for (index, byte) in sent.iter().enumerate() {
        difference |= usize::from(byte ^ token[index % token.len()]);
    }
    std::hint::black_box(difference) == 0
}
