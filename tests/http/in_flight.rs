//! Requests in flight: the playground's `--in-flight`, and the example `concurrency`.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;

use crate::playground::Playground;

/// A response whose body is not read yet.
async fn open(playground: &Playground, path: &str) -> http::Response<hyper::body::Incoming> {
    let request = playground.request(http::Method::GET, path);
    playground.client.request(request).await.expect("an answer")
}

#[tokio::test]
async fn stream_is_in_flight_until_its_last_byte() {
    let playground = Playground::start(&["--quota", "100/day", "--in-flight", "2"]).await;
    let stream = open(&playground, "/stream/5").await;
    let lines = |response: &http::Response<_>, name| {
        let lines = response.headers().get_all(name).iter();
        let lines = lines.map(|line| line.to_str().expect("ASCII").to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&stream, "ratelimit"),
        ["\"default\";r=99", "\"in-flight\";r=1"]
    );
    assert_eq!(
        lines(&stream, "ratelimit-policy"),
        [
            "\"default\";q=100;w=86400",
            "\"in-flight\";q=2;qu=\"concurrent-requests\""
        ]
    );
    let other = open(&playground, "/stream/50").await;
    let rejected = playground.get("/").await;
    assert_eq!(rejected.status, 429);
    assert_eq!(rejected.field("ratelimit"), Some("\"in-flight\";r=0;t=1"));
    assert_eq!(rejected.retry_after(), 1);
    assert!(
        rejected
            .body
            .contains("\"violated-policies\":[\"in-flight\"]")
    );
    let body = stream
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert!(body.ends_with(b"chunk 5\n"));
    let next = playground.get("/").await;
    assert_eq!(next.status, 200);
    assert_eq!(next.field("ratelimit"), Some("\"default\";r=97"));
    drop(other);
}

#[tokio::test]
async fn waiter_is_served_after_another_has_slept() {
    let playground = Playground::start(&["--in-flight", "1", "--wait", "10"]).await;
    let order = std::sync::Mutex::new(Vec::new());
    let ask = async |name, path| {
        assert_eq!(playground.get(path).await.status, 200);
        order.lock().expect("no panic").push(name);
    };
    tokio::join!(ask("slept", "/sleep/400"), async {
        sleep(Duration::from_millis(150)).await;
        ask("waited", "/").await;
    });
    assert_eq!(*order.lock().expect("no panic"), ["slept", "waited"]);
}

#[tokio::test]
async fn global_capacity_exceeded_is_503() {
    let playground = Playground::start(&["--in-flight", "1", "--key", "global"]).await;
    let _stream = open(&playground, "/stream/50").await;
    let rejected = playground.get("/").await;
    assert_eq!((rejected.status.as_u16(), rejected.retry_after()), (503, 1));
    assert!(rejected.field("ratelimit").is_none());
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn killed_server_holds_its_permit_for_one_lease() {
    let redis = crate::support::redis::RedisServer::start();
    let url = redis.url();
    let arguments = ["--backend", &url, "--in-flight", "1", "--lease", "2"];
    let mut first = Playground::start(&arguments).await;
    let second = Playground::start(&arguments).await;
    let _stream = open(&first, "/stream/1000").await;
    // Longer than the lease, which is renewed meanwhile.
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert_eq!(second.get("/").await.status, 429);
        sleep(Duration::from_millis(100)).await;
    }
    let killed = std::time::Instant::now();
    first.process.start_kill().expect("the server runs");
    while second.get("/").await.status == 429 {
        let since = killed.elapsed();
        assert!(since < Duration::from_secs(2 + 10), "{since:?}");
        sleep(Duration::from_millis(20)).await;
    }
    // The last renewal is at most a third of a lease old.
    let since = killed.elapsed();
    assert!(since > Duration::from_millis(1_000), "{since:?}");
}

#[tokio::test]
async fn the_example_holds_permits_for_streams_and_sockets() {
    let example = Playground::start_example("concurrency", &["127.0.0.1:0"]).await;
    let streams = [
        open(&example, "/export").await,
        open(&example, "/export").await,
    ];
    assert_eq!(example.get("/export").await.status, 429);
    drop(streams);

    let address = example.base.replace("http", "ws") + "/chat";
    let (chat, _) = connect_async(&address).await.expect("a socket");
    match connect_async(&address).await {
        Err(Error::Http(rejected)) => assert_eq!(rejected.status(), 429),
        other => panic!("{other:?}"),
    }
    drop(chat);
    let since = std::time::Instant::now();
    while connect_async(&address).await.is_err() {
        assert!(since.elapsed() < crate::playground::TIMEOUT);
        sleep(Duration::from_millis(10)).await;
    }
}
