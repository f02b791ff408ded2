//! The header fields that nested layers write.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::response::{HeaderFormat, Rejection};
use tower_sluice::{Decision, Policy, Quota};

use super::{POLICY, bucket, in_memory, over, request, spent_tokens};
use crate::remote::Remote;
use crate::support::{ClientResponse, ask, hello, memory, now, seen};

#[tokio::test]
async fn policies_between_joined_layers_write_fields_once() {
    let (api, ip) = (bucket(), Policy::new("ip", Quota::per_hour(1_000)));
    for remote in Remote::each_kind() {
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote).cost(2))
            .layer(over(&api, &remote).cost(5))
            .service(hello());
        let ready = service.ready().await.expect("ready");
        let response = ready.call(request()).await.expect("no error");
        let outermost = response.extensions().get::<Decision>().expect("a decision");
        assert_eq!(outermost.snapshot().limit(), 100);
        assert_eq!(outermost.snapshot().remaining(), 95);
        let seen = ClientResponse::of(response).await;
        assert_eq!(seen.lines("ratelimit"), ["\"api\";r=95", "\"ip\";r=998"]);

        // Layers of two policies in alternating order.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote))
            .layer(over(&api, &remote).cost(3))
            .layer(over(&ip, &remote).cost(8))
            .service(hello());
        let seen = ask(&mut service, request()).await;
        assert_eq!(seen.lines("ratelimit"), ["\"ip\";r=990", "\"api\";r=92"]);
        assert_eq!(seen.lines("ratelimit-policy").len(), 2);

        // The inner layer rejects. The charge of its own policy is refunded, and the charge of the other policy stays.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote))
            .layer(over(&api, &remote).cost(94))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        let reported = ["\"api\";r=92;t=72", "\"ip\";r=989"];
        assert_eq!(rejected.lines("ratelimit"), reported);
        assert_eq!(spent_tokens(&remote), 8);

        // The layer of the other policy rejects. The outer layer keeps its charge.
        let mut service = ServiceBuilder::new()
            .layer(over(&api, &remote))
            .layer(over(&ip, &remote).cost(1_000))
            .layer(over(&api, &remote).cost(5))
            .service(hello());
        let rejected = ask(&mut service, request()).await;
        assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(spent_tokens(&remote), 9);
    }
}

#[test]
fn joined_layers_write_the_innermost_numbers_once() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let silent = || limit().headers(HeaderFormat::None);
    let mut left = 100;
    let mut check = |seen: ClientResponse| {
        left -= 5;
        assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
        assert_eq!(seen.lines("ratelimit-policy"), POLICY);
    };
    let mut both = ServiceBuilder::new()
        .layer(limit())
        .layer(limit().cost(5))
        .service(hello());
    check(seen(&mut both, request()));
    let mut outside = ServiceBuilder::new()
        .layer(limit())
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut outside, request()));
    let mut inside = ServiceBuilder::new()
        .layer(silent())
        .layer(limit().cost(5))
        .service(hello());
    check(seen(&mut inside, request()));
    let mut middle = ServiceBuilder::new()
        .layer(silent())
        .layer(limit().cost(3))
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut middle, request()));
    // A layer of equal cost in between writes nothing.
    let mut equal = ServiceBuilder::new()
        .layer(limit())
        .layer(silent().cost(1))
        .layer(silent().cost(5))
        .service(hello());
    check(seen(&mut equal, request()));

    let mut silent_layers = ServiceBuilder::new()
        .layer(silent())
        .layer(silent().cost(5))
        .service(hello());
    let response = now(&mut silent_layers, request()).expect("no error");
    let decision = response.extensions().get::<Decision>().expect("a decision");
    assert_eq!(decision.snapshot().remaining(), left - 5);
    let silence = ClientResponse::of(response)
        .now_or_never()
        .expect("at once");
    assert!(silence.has_no_rate_limit_fields(), "{silence:?}");

    // The inner layer rejects without fields of its own, and the outer layer writes them.
    for reported in [limit(), silent()] {
        let mut service = ServiceBuilder::new()
            .layer(limit())
            .layer(reported.cost(71))
            .service(hello());
        let rejected = seen(&mut service, request());
        assert_eq!(rejected.lines("ratelimit"), ["\"api\";r=70;t=36"]);
        assert_eq!(rejected.lines("ratelimit-policy"), POLICY);
    }
}

#[test]
fn reject_fn_sees_whether_the_outer_charge_was_refunded() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let reported = limit().cost(101).reject_fn(|_, rejection| match rejection {
        Rejection::Limited { joined, .. } => Response::new(joined.to_string()),
        other => panic!("{other:?}"),
    });
    let mut alone = reported.clone().layer(hello());
    assert_eq!(seen(&mut alone, request()).body, "false");
    let mut within = limit().layer(reported.layer(hello()));
    assert_eq!(seen(&mut within, request()).body, "true");
}

#[test]
fn redirects_have_the_innermost_numbers_if_any_layer_writes_them() {
    let memory = memory();
    let limit = || in_memory(&bucket(), &memory);
    let redirects = |on: [bool; 2]| {
        ServiceBuilder::new()
            .layer(limit().headers_on_redirects(on[0]))
            .layer(limit().headers_on_redirects(on[1]).cost(5))
            .service(tower::service_fn(|_: Request<()>| async {
                let response = Response::builder().status(302);
                Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).expect("valid"))
            }))
    };
    assert!(seen(&mut redirects([false, false]), request()).has_no_rate_limit_fields());
    for (on, left) in [([true, false], 90), ([false, true], 85), ([true, true], 80)] {
        let seen = seen(&mut redirects(on), request());
        assert_eq!(seen.lines("ratelimit"), [format!("\"api\";r={left}")]);
    }
}
