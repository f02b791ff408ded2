//! The example `playground` from outside: as a process, over real connections, in real time.
#![cfg(feature = "axum")]

mod admin;
mod charges;
mod examples;
mod formats;
mod in_flight;
mod keys;
#[cfg(feature = "metrics")]
mod metrics;
mod page;
mod playground;
mod process;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::playground::Playground;

#[tokio::test]
async fn burst_is_allowed_then_a_client_that_obeys_retry_after() {
    let playground = Playground::start(&["--quota", "1/2s burst 3"]).await;
    for remaining in (0..3).rev() {
        let answer = playground.get("/").await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok\n"));
        assert_eq!(
            answer.field("ratelimit-policy"),
            Some("\"default\";q=3;w=6")
        );
        let reported = answer.field("ratelimit").expect("a limit");
        assert!(
            reported.starts_with(&format!("\"default\";r={remaining}")),
            "{reported}"
        );
    }
    let rejected = playground.get("/").await;
    assert_eq!(rejected.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        rejected.field("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(rejected.field("cache-control"), Some("no-store"));
    assert!(
        rejected
            .body
            .contains("\"violated-policies\":[\"default\"]"),
        "{}",
        rejected.body
    );
    let wait = rejected.retry_after();
    assert!((1..=2).contains(&wait), "{wait}");
    // In real time on purpose: clients rely on it.
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(playground.get("/").await.status, StatusCode::OK);
    assert_eq!(
        playground.get("/").await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn shadow_policy_rejects_nothing_and_logs_denials() {
    let playground = Playground::start(&["--quota", "2/day", "--shadow"]).await;
    for rejected in [false, false, true, true] {
        let answer = playground.get("/").await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok\n"));
        let reported = answer.field("x-ratelimit-shadow");
        assert_eq!(reported, rejected.then_some("default"));
        assert!(answer.field("ratelimit").is_none());
    }
}

#[tokio::test]
async fn every_path_behaves_as_documented() {
    let playground = Playground::start(&["--quota", "1000/day"]).await;
    assert_eq!(playground.get("/cost/2").await.body, "cost 2\n");

    let start = Instant::now();
    assert_eq!(playground.get("/sleep/50").await.body, "slept 50 ms\n");
    assert!(start.elapsed() >= Duration::from_millis(50));

    assert_eq!(
        playground
            .statuses(&["/status/204", "/status/503", "/status/404", "/status/101"])
            .await,
        [204, 503, 404, 400]
    );
    let teapot = playground.get("/status/418").await;
    assert_eq!(teapot.status, StatusCode::IM_A_TEAPOT);
    assert!(teapot.field("ratelimit").is_some());
    let moved = playground.get("/status/302").await;
    assert_eq!(
        (moved.status, moved.field("ratelimit")),
        (StatusCode::FOUND, None)
    );

    assert_eq!(playground.get("/stream/2").await.body, "chunk 1\nchunk 2\n");

    let mut echo = playground.request(Method::POST, "/echo");
    *echo.body_mut() = Full::from("hello");
    assert_eq!(playground.send(echo).await.body, "hello");
    let wrong = playground.request(Method::POST, "/cost/1");
    assert_eq!(playground.send(wrong).await.status, 405);
    assert_eq!(playground.get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn path_sets_the_cost_of_a_request() {
    let playground = Playground::start(&["--quota", "10/day"]).await;
    let remaining = async |path| {
        let answer = playground.get(path).await;
        (
            answer.status.as_u16(),
            answer.field("ratelimit").expect("a limit").to_owned(),
        )
    };
    assert_eq!(
        remaining("/cost/4").await,
        (200, "\"default\";r=6".to_owned())
    );
    assert_eq!(
        remaining("/cost/0").await,
        (200, "\"default\";r=6".to_owned())
    );
    assert_eq!(remaining("/").await, (200, "\"default\";r=5".to_owned()));
    assert_eq!(
        remaining("/cost/5").await,
        (200, "\"default\";r=0;t=8640".to_owned())
    );
    assert_eq!(remaining("/").await.0, 429);
    assert_eq!(remaining("/cost/0").await.0, 200);

    let never = playground.get("/cost/11").await;
    assert_eq!(
        (never.status.as_u16(), never.field("retry-after")),
        (429, None)
    );
}

#[tokio::test]
async fn key_can_be_a_header() {
    let playground = Playground::start(&["--quota", "1/day", "--key", "header:X-Api-Key"]).await;
    let with = |keys: &[&str]| {
        let mut request = playground.request(Method::GET, "/");
        for key in keys {
            let key = key.parse().expect("a value");
            request.headers_mut().append("x-api-key", key);
        }
        playground.send(request)
    };
    assert_eq!(with(&["hunter2"]).await.status, 200);
    let rejected = with(&["hunter2"]).await;
    assert_eq!(rejected.status, 429);
    assert!(!rejected.body.contains("hunter2"));
    assert_eq!(with(&["bob"]).await.status, 200);
    assert_eq!(with(&[]).await.status, 400);
    assert_eq!(with(&["cid", "dan"]).await.status, 400);
    assert_eq!(with(&["cid"]).await.status, 200);
}

#[tokio::test]
async fn key_is_the_address_by_default() {
    let playground = Playground::start(&["--quota", "1/day"]).await;
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some([127, 0, 0, 2].into()));
    let neighbour: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build(connector.clone());
    assert_eq!(playground.statuses(&["/", "/"]).await, [200, 429]);
    let answer = neighbour.request(playground.request(Method::GET, "/"));
    assert_eq!(answer.await.expect("an answer").status(), 200);

    let global = Playground::start(&["--quota", "1/day", "--key", "global"]).await;
    assert_eq!(global.statuses(&["/", "/"]).await, [200, 429]);
    let neighbour: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let answer = neighbour.request(global.request(Method::GET, "/"));
    assert_eq!(answer.await.expect("an answer").status(), 429);
}

#[tokio::test]
async fn quotas_have_the_policy_name_and_several_are_numbered() {
    let one = Playground::start(&["--name", "api", "--quota", "5/day"]).await;
    let answer = one.get("/").await;
    assert_eq!(
        answer.field("ratelimit-policy"),
        Some("\"api\";q=5;w=86400")
    );
    assert_eq!(answer.field("ratelimit"), Some("\"api\";r=4"));

    let two = Playground::start(&[
        "--name",
        "api",
        "--quota",
        "2/day",
        "--quota",
        "5/h burst 9",
    ])
    .await;
    let answer = two.get("/").await;
    assert_eq!(
        answer.field("ratelimit-policy"),
        Some("\"api-1\";q=2;w=86400, \"api-2\";q=9;w=6480")
    );
    assert_eq!(
        answer.field("ratelimit"),
        Some("\"api-1\";r=1, \"api-2\";r=8")
    );
    two.get("/").await;
    let rejected = two.get("/").await;
    assert_eq!(rejected.status, 429);
    assert!(rejected.body.contains("[\"api-1\"]"), "{}", rejected.body);
}

#[tokio::test]
async fn every_algorithm_can_be_configured() {
    // Three a day: the wait of a rejection differs by algorithm. Some seconds may pass meanwhile.
    let about = |seconds: u64| seconds - 60..=seconds;
    for (algorithm, wait) in [
        ("token-bucket", about(28_800)),
        ("interval", about(86_400)),
        ("fixed-window", 1..=86_400),
        ("sliding-window", 1..=172_800),
        ("sliding-log", about(86_400)),
    ] {
        let quota = format!("{algorithm}:3/day");
        let playground = Playground::start(&["--quota", &quota]).await;
        let first = playground.get("/").await;
        let policy = first.field("ratelimit-policy");
        assert_eq!(policy, Some("\"default\";q=3;w=86400"), "{algorithm}");
        let reported = first.field("ratelimit").expect("a limit");
        let bucket = matches!(algorithm, "token-bucket" | "interval");
        assert_eq!(
            reported == "\"default\";r=2",
            bucket,
            "{algorithm}: {reported}"
        );
        let rest = playground.statuses(&["/"; 2]).await;
        assert_eq!(rest, [200; 2], "{algorithm}");
        let rejected = playground.get("/").await;
        assert_eq!(rejected.status, 429, "{algorithm}");
        let reported = rejected.retry_after();
        assert!(wait.contains(&reported), "{algorithm}: {reported}");
    }
}
