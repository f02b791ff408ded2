//! A backend that fails: each failure policy.

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use tower::ServiceBuilder;
use tower_sluice::backend::Backend;
use tower_sluice::{Charge, FailurePolicy, Global, MemoryBackend, RateLimitLayer};

use crate::contract::fails_at_once;
use crate::remote::{Down, Remote};
use crate::support::{self, seen, two_a_minute};

fn on_failure<B: Backend<Error = Down>>(
    backend: B,
    choice: FailurePolicy,
) -> Vec<support::ClientResponse> {
    let limit = RateLimitLayer::new(two_a_minute(), Global, backend).on_backend_error(choice);
    let mut service =
        ServiceBuilder::new()
            .layer(limit)
            .service_fn(|request: Request<()>| async move {
                let charge = request.extensions().get::<Charge>().expect("a charge");
                let decided = charge.decision().is_some();
                Ok::<_, Infallible>(Response::new(decided.to_string()))
            });
    (0..3)
        .map(|_| seen(&mut service, Request::new(())))
        .collect()
}

#[test]
fn fail_open_allows_without_rate_limit_fields() {
    let both = [
        on_failure(Remote::failing(), FailurePolicy::FailOpen),
        on_failure(fails_at_once(), FailurePolicy::FailOpen),
    ];
    for seen in both.iter().flatten() {
        assert_eq!((seen.status, &*seen.body), (StatusCode::OK, "false"));
        assert_eq!(seen.head(), []);
    }
}

#[test]
fn fail_closed_rejects_without_the_cause() {
    let both = [
        on_failure(Remote::failing(), FailurePolicy::FailClosed),
        on_failure(fails_at_once(), FailurePolicy::FailClosed),
    ];
    for seen in both.iter().flatten() {
        assert_eq!(seen.status, 503);
        let head = [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
            ("retry-after", "1"),
        ];
        assert_eq!(seen.head(), head);
        let body: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Service Unavailable", "status": 503
        });
        assert_eq!(body, expected);
    }
}

#[test]
fn fallback_decides_when_the_backend_fails() {
    let both = [
        on_failure(
            Remote::failing(),
            FailurePolicy::Fallback(MemoryBackend::new()),
        ),
        on_failure(
            fails_at_once(),
            FailurePolicy::Fallback(MemoryBackend::new()),
        ),
    ];
    for seen in both {
        let statuses: Vec<_> = seen.iter().map(|seen| seen.status.as_u16()).collect();
        assert_eq!(statuses, [200, 200, 429]);
        assert_eq!(seen[0].body, "true");
        assert_eq!(seen[0].lines("ratelimit"), ["\"api\";r=1"]);
        assert_eq!(seen[2].lines("retry-after"), ["30"]);
    }
}
