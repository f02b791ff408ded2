//! Playgrounds that share a Redis, or whose Redis is down.

use std::time::{Duration, Instant};

use crate::examples::run;
use crate::playground::Playground;
use crate::support::free_port;
use crate::support::redis::RedisServer;
#[cfg(feature = "sentinel")]
use crate::support::sentinels::Sentinels;

/// A playground over the server at `url`.
async fn over(url: &str, arguments: &[&str]) -> Playground {
    Playground::start(&[&["--backend", url], arguments].concat()).await
}

#[tokio::test]
async fn two_playgrounds_share_one_limit_exactly() {
    let server = RedisServer::start();
    let limit = ["--quota", "fixed-window:30/day", "--name", "shared"];
    let (one, two) = (
        over(&server.url(), &limit).await,
        over(&server.url(), &limit).await,
    );
    let asks = async |playground: &Playground, times: usize| {
        let answers = (0..times).map(|_| playground.get("/"));
        let answers = futures_util::future::join_all(answers).await;
        answers.iter().filter(|answer| answer.status == 200).count()
    };
    assert_eq!((asks(&one, 10).await, asks(&two, 10).await), (10, 10));
    let (by_one, by_two) = tokio::join!(asks(&one, 40), asks(&two, 40));
    assert_eq!(by_one + by_two, 10, "{by_one} and {by_two}");
    let rejected = two.get("/").await;
    assert_eq!(rejected.status, 429);
    assert_eq!(
        rejected.field("ratelimit-policy"),
        Some("\"shared\";q=30;w=86400")
    );
    assert_eq!(server.keys(), ["{sluice:shared:r127.0.0.1}:f86400000000"]);
}

#[tokio::test]
async fn failure_policy_applies_without_redis() {
    let closed = format!("redis://127.0.0.1:{}/", free_port());
    for (choice, statuses, fields) in [
        (&[][..], [503, 503, 503], false),
        (&["--on-backend-error", "deny"], [503, 503, 503], false),
        (&["--on-backend-error", "allow"], [200, 200, 200], false),
        (&["--on-backend-error", "memory"], [200, 200, 429], true),
    ] {
        let playground = over(&closed, &[&["--quota", "2/day"], choice].concat()).await;
        assert_eq!(
            playground.statuses(&["/", "/", "/"]).await,
            statuses,
            "{choice:?}"
        );
        let answer = playground.get("/").await;
        assert_eq!(answer.field("ratelimit").is_some(), fields, "{choice:?}");
        if answer.status == 503 {
            assert_eq!(answer.field("retry-after"), Some("1"));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            let reported = r#"{"type":"about:blank","title":"Service Unavailable","status":503}"#;
            assert_eq!(
                answer.body, reported,
                "the response must not show the failure"
            );
        }
    }
}

#[tokio::test]
async fn playground_starts_before_redis_and_uses_it_later() {
    let mut server = RedisServer::options().prepare();
    let playground = over(&server.url(), &["--quota", "2/day"]).await;
    assert_eq!(playground.statuses(&["/"; 6]).await, [503; 6]);
    server.restart();
    let (back, mut answer) = (Instant::now(), playground.get("/").await);
    while answer.status == 503 && back.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = playground.get("/").await;
    }
    let took = back.elapsed();
    assert_eq!(answer.status, 200);
    assert!(
        took <= Duration::from_secs(2),
        "{took:?} after the restart of Redis"
    );
    assert_eq!(playground.statuses(&["/", "/"]).await, [200, 429]);
}

#[tokio::test]
async fn time_limit_of_redis_can_be_set() {
    let server = RedisServer::start();
    let playground = over(&server.url(), &["--backend-timeout", "1500"]).await;
    assert_eq!(playground.get("/").await.status, 200);
    server.pause();
    let (start, rejected) = (Instant::now(), playground.get("/").await);
    let took = start.elapsed();
    server.resume();
    assert_eq!(rejected.status, 503);
    assert!(took >= Duration::from_millis(1_400), "{took:?}");
}

#[tokio::test]
async fn two_clients_stay_within_an_upstream_quota() {
    let server = RedisServer::start();
    // It allows 5 in a second and rejects the sixth.
    let upstream = Playground::start(&["--quota", "5/second", "--key", "global"]).await;
    let (url, redis) = (format!("{}/", upstream.base), server.url());
    let client = || async {
        let output = run("client", &[&url, &redis, "12"]).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let start = Instant::now();
    let (one, two) = tokio::join!(client(), client());
    // 24 requests: the first is sent at once, and the last 23 fifths of a second later.
    let least = Duration::from_millis(4_600);
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    let lines: Vec<&str> = one.lines().chain(two.lines()).collect();
    assert_eq!(lines.len(), 24);
    assert!(
        lines.iter().all(|line| line.ends_with(" ms 200")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn stopping_the_playground_completes_releases_and_refunds() {
    let server = RedisServer::start();
    let arguments = [
        "--quota",
        "1000/day",
        "--in-flight",
        "100",
        "--free-status",
        "2xx",
    ];
    let proxy = crate::support::proxy::Proxy::to(server.port()).await;
    let far = crate::support::proxy::Mode::Delay(Duration::from_millis(20));
    proxy.set(far).await;
    let mut playground = over(&proxy.url(), &arguments).await;
    // Makes its first connections.
    while playground.get("/").await.status != 200 {}
    let (client, base) = (playground.client.clone(), playground.base.clone());
    let sent = (0..60).map(|_| {
        let uri = format!("{base}/sleep/500").parse().expect("a URI");
        tokio::spawn(client.get(uri))
    });
    let sent: Vec<_> = sent.collect();
    let holders = || -> u64 {
        let held = server.keys().into_iter().find(|key| key.ends_with("}:p"));
        held.map_or(0, |key| server.get(&["ZCARD", &key]))
    };
    let start = Instant::now();
    while holders() < 60 {
        assert!(
            start.elapsed() < crate::playground::TIMEOUT,
            "{}",
            holders()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(playground.stop("-TERM").await.success());
    for answer in sent {
        let answer = answer.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(holders(), 0);
    let playground = over(&server.url(), &arguments).await;
    let answer = playground.get("/status/404").await;
    let left = answer.field("ratelimit").expect("a decision");
    assert!(left.starts_with("\"default\";r=999"), "{left}");
}

/// Each playground finds the primary by itself.
#[cfg(feature = "sentinel")]
#[tokio::test]
async fn playgrounds_behind_sentinel_share_one_limit() {
    let servers = Sentinels::start(1);
    let limit = ["--quota", "fixed-window:3/day", "--name", "shared"];
    let (one, two) = (
        over(&servers.url(), &limit).await,
        over(&servers.url(), &limit).await,
    );
    for playground in [&one, &two, &one] {
        assert_eq!(playground.get("/").await.status, 200);
    }
    assert_eq!(two.get("/").await.status, 429);
}
