//! Any header values get a response.

use http::{HeaderValue, Method, Request};
use proptest::collection::vec;
use proptest::prelude::*;
use tower::Layer;

use crate::support::{USER, by_user, hello, now};

/// Any bytes that a header field may hold. Bytes with a meaning here occur more often.
fn value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![
        4 => vec(any::<u8>(), 0..80),
        1 => vec(0x80..=0xff_u8, 1..300),
        1 => Just(b"application/grpc".to_vec()),
        1 => Just(b"4294967296".to_vec()),
        1 => Just(b"{}:{x}".to_vec()),
    ];
    bytes.prop_filter_map("no header value", |bytes| {
        HeaderValue::from_bytes(&bytes).ok()
    })
}

proptest! {
    #[test]
    fn any_header_values_are_answered_and_counted(
        users in vec(value(), 0..4),
        noise in vec(
            (prop::sample::select(vec!["accept", "content-length", "ratelimit", "retry-after", "content-type"]), value()),
            0..6,
        ),
        is_post in any::<bool>(),
    ) {
        let request = || {
            let mut request = Request::new(());
            if is_post {
                *request.method_mut() = Method::POST;
            }
            for user in &users {
                request.headers_mut().append(USER, user.clone());
            }
            for (name, value) in &noise {
                request.headers_mut().append(*name, value.clone());
            }
            request
        };
        let is_grpc = |kind: &[u8]| {
            let rest = kind.strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]) || rest.starts_with(b"-web"))
        };
        let kind = request().headers().get("content-type").cloned();
        let grpc = is_post && kind.is_some_and(|kind| is_grpc(kind.as_bytes()));
        let mut service = by_user().layer(hello());
        let mut answer = || {
            let response = now(&mut service, request()).expect("no error");
            let status = response.headers().get("grpc-status").map(|status| status.to_str().expect("ASCII").to_owned());
            status.unwrap_or_else(|| response.status().as_str().to_owned())
        };
        let answers = [answer(), answer(), answer()];
        let expected = match &users[..] {
            [only] if !only.is_empty() => ["200", "200", if grpc { "8" } else { "429" }],
            _ if grpc => ["3"; 3],
            _ => ["400"; 3],
        };
        prop_assert_eq!(answers, expected);
    }
}
