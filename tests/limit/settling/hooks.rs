//! Hooks settle a charge by the response.

use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use axum::Router;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_sluice::response::HeaderFormat;
use tower_sluice::{Charge, Cost, FailurePolicy};

use super::{fetch, limit, spent_tokens};
use crate::remote::Remote;
use crate::support::{
    ClientResponse, Memory, ask, by_user, hello, memory, now, run_other_tasks, seen,
};

type Answer = Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// A service that answers with `status` and reports its actual cost in a field.
fn answers(
    status: u16,
    tokens: &'static str,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible, Future = Answer>
+ Clone {
    tower::service_fn(move |_: Request<()>| {
        let response = Response::builder()
            .status(status)
            .header("x-tokens", tokens);
        std::future::ready(Ok(response.body(Full::default()).expect("a valid head")))
    })
}

#[tokio::test]
async fn hook_can_charge_only_failures() {
    for remote in Remote::each_kind() {
        let limit = limit(&remote).on_response(|parts, charge| {
            if !parts.status.is_client_error() {
                drop(charge.cancel());
            }
        });
        for (status, left) in [(200, 0), (401, 10), (500, 10), (204, 10), (404, 20)] {
            let seen = ask(&mut limit.layer(answers(status, "")), Request::new(())).await;
            run_other_tasks().await;
            assert_eq!(seen.status.as_u16(), status);
            assert_eq!(spent_tokens(&remote.memory), left, "{status}");
        }
    }
}

#[tokio::test]
async fn hook_can_refund_server_errors() {
    for remote in Remote::each_kind() {
        let limit = limit(&remote).on_response(|parts, charge| {
            if parts.status.is_server_error() {
                drop(charge.cancel());
            }
        });
        for (status, left) in [(200, 10), (500, 10), (503, 10), (404, 20)] {
            ask(&mut limit.layer(answers(status, "")), Request::new(())).await;
            run_other_tasks().await;
            assert_eq!(spent_tokens(&remote.memory), left, "{status}");
        }
    }
}

#[tokio::test]
async fn response_field_sets_the_actual_cost() {
    for remote in Remote::each_kind() {
        let limit = limit(&remote).on_response(|parts, charge| {
            let tokens = parts.headers.get("x-tokens");
            let tokens = tokens.and_then(|tokens| tokens.to_str().ok()?.parse::<u64>().ok());
            if let Some(tokens) = tokens {
                drop(charge.settle(tokens));
            }
        });
        for (tokens, left) in [("3", 3), ("25", 28), ("0", 28), ("many", 38), ("10", 48)] {
            let seen = ask(&mut limit.layer(answers(200, tokens)), Request::new(())).await;
            run_other_tasks().await;
            assert_eq!(seen.lines("ratelimit").len(), 1);
            assert_eq!(spent_tokens(&remote.memory), left, "{tokens}");
        }
    }
}

#[tokio::test]
async fn hook_does_not_change_a_settled_charge() {
    for remote in Remote::each_kind() {
        let hooks = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&hooks);
        let limit = limit(&remote).on_response(move |_, charge| {
            calls.fetch_add(1, SeqCst);
            assert_eq!(charge.estimate(), None);
            let late = charge.settle(99).now_or_never().expect("at once");
            assert!(late.expect_err("settled").is_settled());
        });
        let app = Router::new()
            .route("/", get(async |charge: Charge| drop(charge.settle(4))))
            .layer(limit);
        fetch(&app, "/").await;
        run_other_tasks().await;
        assert_eq!((hooks.load(SeqCst), spent_tokens(&remote.memory)), (1, 4));
    }
}

#[tokio::test]
async fn the_hook_sees_the_head_as_the_service_wrote_it() {
    let limit = limit(&memory()).on_response(|parts, charge| {
        assert_eq!(
            parts.headers.len(),
            1,
            "the response has a field of the limit"
        );
        assert_eq!(charge.estimate(), Some(Cost::new(10)));
    });
    let seen = seen(&mut limit.layer(answers(200, "")), Request::new(()));
    assert_eq!(seen.lines("ratelimit"), ["\"api\";r=90"]);
}

#[tokio::test]
async fn hook_is_not_called_for_rejections_or_service_errors() {
    let never = || {
        let memory = memory();
        limit(&memory).on_response(|_, _| panic!("there is no response of the service"))
    };
    let rejected = seen(&mut never().cost(101).layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);

    let by_user = by_user().on_response(|_, _| panic!("there is no key"));
    let rejected = seen(&mut by_user.layer(hello()), Request::new(()));
    assert_eq!(rejected.status, StatusCode::BAD_REQUEST);

    for remote in [Remote::failing(), Remote::delayed()] {
        let limit = limit(&remote).on_response(|_, _| panic!("the service is not asked"));
        let rejected = ask(&mut limit.cost(101).layer(hello()), Request::new(())).await;
        assert!(rejected.status == 429 || rejected.status == 503);
    }

    #[derive(Debug, PartialEq)]
    struct Broken;
    let mut service = never().layer(tower::service_fn(|_: Request<()>| async {
        Err::<Response<String>, _>(Broken)
    }));
    assert_eq!(now(&mut service, Request::new(())).unwrap_err(), Broken);
}

#[tokio::test]
async fn hook_runs_for_uncounted_requests_without_effect() {
    let calls = Arc::new(AtomicUsize::new(0));
    let hook = {
        let calls = Arc::clone(&calls);
        move |_: &http::response::Parts, charge: &Charge| {
            calls.fetch_add(1, SeqCst);
            assert!(charge.policy().is_none());
            let nothing = charge.settle(50).now_or_never().expect("at once");
            assert!(nothing.expect("no failure").is_none());
        }
    };
    let failing = Remote::failing();
    let allows = limit(&failing).on_backend_error(FailurePolicy::FailOpen);
    for extensions in [true, false] {
        let limit = allows.clone().extensions(extensions);
        let mut service = limit.on_response(hook.clone()).layer(hello());
        assert_eq!(ask(&mut service, Request::new(())).await.status, 200);
        let limit = by_user().skip_unkeyed().extensions(extensions);
        let mut service = limit.on_response(hook.clone()).layer(hello());
        assert_eq!(ask(&mut service, Request::new(())).await.status, 200);
    }
    assert_eq!(calls.load(SeqCst), 4);
    assert_eq!(failing.operations(), ["check 10"; 2]);
}

#[tokio::test]
async fn the_hook_works_without_extensions_and_header_fields() {
    for remote in Remote::each_kind() {
        let mut service = limit(&remote)
            .extensions(false)
            .headers(HeaderFormat::None)
            .on_response(|_, charge| drop(charge.settle(4)))
            .layer(tower::service_fn(|request: Request<()>| async move {
                assert!(request.extensions().is_empty());
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }));
        let ready = service.ready().await.expect("ready");
        let response = ready.call(Request::new(())).await.expect("no error");
        assert!(response.extensions().is_empty() && response.headers().is_empty());
        run_other_tasks().await;
        assert_eq!(spent_tokens(&remote.memory), 4);
    }
}

#[test]
fn hook_and_reject_fn_combine_in_any_order() {
    let rejection = |_: &tower_sluice::Head<'_>, rejection: &tower_sluice::response::Rejection| {
        let mut response = Response::new("slow down");
        *response.status_mut() = rejection.status();
        response
    };
    let check = |one: ClientResponse, two: ClientResponse, memory: Memory| {
        assert_eq!((one.status.as_u16(), spent_tokens(&memory)), (200, 96));
        assert_eq!((two.status.as_u16(), &*two.body), (429, "slow down"));
    };
    let memory_of_one = memory();
    let limit_of_one = limit(&memory_of_one);
    let mut service = limit_of_one
        .reject_fn(rejection)
        .on_response(|_, charge| drop(charge.settle(96)))
        .layer(hello());
    let both = [(); 2].map(|()| seen(&mut service, Request::new(())));
    let [one, two] = both;
    check(one, two, memory_of_one);

    let memory_of_two = memory();
    let mut service = limit(&memory_of_two)
        .on_response(|_, charge| drop(charge.settle(96)))
        .reject_fn(rejection)
        .layer(hello());
    let [one, two] = [(); 2].map(|()| seen(&mut service, Request::new(())));
    check(one, two, memory_of_two);
}

/// The parameter types of the closure are inferred wherever the layer is applied.
#[tokio::test]
async fn hook_works_wherever_the_layer_is_applied() {
    let memory = memory();
    let limit = || limit(&memory).on_response(|_parts, charge| drop(charge.settle(1)));
    let ok = || -> MethodRouter { get(async || "ok") };
    let apps = [
        Router::new().route("/", ok()).layer(limit()),
        Router::new().route("/", ok()).route_layer(limit()),
        Router::new().route("/", ok().layer(limit())),
        Router::new().route("/", ok().route_layer(limit())),
        Router::new()
            .route("/", ok())
            .layer(ServiceBuilder::new().layer(limit())),
        Router::new().route_service("/", limit().layer(ok())),
        Router::new().fallback_service(limit().layer(Router::<()>::new().route("/", ok()))),
    ];
    let count = u64::try_from(apps.len()).expect("some");
    for app in apps {
        assert_eq!(fetch(&app, "/").await.status, StatusCode::OK);
    }
    let mut service = ServiceBuilder::new()
        .layer(limit())
        .service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) });
    assert_eq!(seen(&mut service, Request::new(())).status, StatusCode::OK);
    let boxed = ServiceBuilder::new().layer(limit()).service(hello::<()>());
    let mut boxed = boxed.boxed_clone();
    assert_eq!(seen(&mut boxed, Request::new(())).status, StatusCode::OK);
    assert_eq!(spent_tokens(&memory), count + 2);
}
