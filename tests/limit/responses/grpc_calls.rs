//! gRPC calls, without tonic.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::Full;
use tower::Layer;
use tower_sluice::{Decision, PeerIp, RateLimitLayer};

use super::{global, grpc};
use crate::support::{by_user, hello, memory, now, seen, two_a_minute};

#[test]
fn grpc_rejection_is_trailers_only() {
    for (kind, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("Application/gRPC", "application/grpc"),
        // A gRPC-Web client understands only its own content type.
        ("application/grpc-web", "application/grpc-web"),
        ("application/grpc-web+proto", "application/grpc-web+proto"),
        (
            "application/grpc-web-text+json; charset=utf-8",
            "application/grpc-web-text+json",
        ),
        ("Application/gRPC-Web", "application/grpc-web"),
        // The content type of the request is not echoed.
        ("application/grpc-web, text/html", "application/grpc-web"),
        (
            "application/grpc-web-text<script>",
            "application/grpc-web-text",
        ),
    ] {
        let limit = global()
            .cost(3)
            .response_extensions(true)
            .reject_fn(|_, _| Response::new("not for gRPC"));
        let response = now(&mut limit.layer(hello()), grpc(kind)).expect("no error");
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.body().is_end_stream());
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert!(response.extensions().get::<Decision>().is_some());
        let mut headers = response.headers().clone();
        assert_eq!(headers.remove("content-type").unwrap(), answered);
        assert_eq!(headers.remove("grpc-status").unwrap(), "8");
        assert_eq!(
            headers.remove("grpc-message").unwrap(),
            "rate limit exceeded"
        );
        // The cost exceeds the limit: never retry.
        assert_eq!(headers.remove("grpc-retry-pushback-ms").unwrap(), "-1");
        assert!(headers.remove("grpc-status-details-bin").is_some());
        assert_eq!(headers.remove("cache-control").unwrap(), "no-store");
        assert!(headers.is_empty(), "{headers:?}");
    }
}

#[test]
fn allowed_grpc_response_has_no_rate_limit_fields() {
    let mut service = global().layer(tower::service_fn(|_: Request<()>| async {
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(Full::<Bytes>::default());
        Ok::<_, Infallible>(response.expect("a valid head"))
    }));
    let seen = seen(&mut service, grpc("application/grpc"));
    assert_eq!(seen.head(), [("content-type", "application/grpc")]);
}

#[test]
fn grpc_call_without_a_key_gets_a_grpc_rejection() {
    let call = || grpc("application/grpc");
    let status = |response: Response<_>| {
        let _: &tower_sluice::response::ResponseBody<Full<Bytes>> = response.body();
        assert_eq!(response.status(), 200);
        response.headers()["grpc-status"].clone()
    };
    let response = now(&mut by_user().wrap_body().layer(hello()), call());
    assert_eq!(status(response.expect("no error")), "3");
    let limit = RateLimitLayer::new(two_a_minute(), PeerIp::new(), memory());
    let response = now(&mut limit.wrap_body().layer(hello()), call());
    assert_eq!(status(response.expect("no error")), "13");
}
