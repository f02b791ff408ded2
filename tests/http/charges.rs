//! The actual charges of requests, and waiting for tokens.

use std::time::{Duration, Instant};

use http::Method;
use tokio::time::timeout;

use crate::playground::{Answer, Playground, TIMEOUT};

async fn post(playground: &Playground, path: &str) -> Answer {
    playground
        .send(playground.request(Method::POST, path))
        .await
}

/// The remaining tokens of a bucket that hardly refills.
async fn left(playground: &Playground) -> String {
    let answer = playground.get("/cost/0").await;
    let reported = answer.field("ratelimit").expect("a limit");
    let parameters = reported.split(';').nth(1).expect("r");
    parameters.to_owned()
}

#[tokio::test]
async fn estimate_is_settled_below_above_and_unchanged() {
    let playground = Playground::start(&["--quota", "20/day"]).await;
    for (path, body, remaining) in [
        (
            "/settle/5/2",
            "estimated 5, settled at 2, 18 left\n",
            "r=18",
        ),
        (
            "/settle/2/8",
            "estimated 2, settled at 8, 10 left\n",
            "r=10",
        ),
        ("/settle/3/3", "estimated 3, settled at 3\n", "r=7"),
        (
            "/settle/7/40",
            "estimated 7, settled at 40, 0 left\n",
            "r=0",
        ),
    ] {
        let answer = post(&playground, path).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, body));
        assert_eq!(left(&playground).await, remaining, "{path}");
    }
    // A debt of 33 beyond the limit was requested. The debt is at most the limit, at 20 a day: 1.05 days.
    let rejected = playground.get("/").await;
    assert_eq!(rejected.status, 429);
    assert!(rejected.retry_after() > 86_400 && rejected.retry_after() <= 2 * 86_400);
}

#[tokio::test]
async fn estimate_above_the_remaining_tokens_is_denied() {
    let playground = Playground::start(&["--quota", "5/day"]).await;
    assert_eq!(post(&playground, "/settle/6/0").await.status, 429);
    assert_eq!(post(&playground, "/settle/5/0").await.status, 200);
    assert_eq!(left(&playground).await, "r=5");
    for nonsense in [
        "/settle/-1/0",
        "/settle/1/-1",
        "/settle/1/18446744073709551616",
        "/settle/a/b",
    ] {
        assert_eq!(post(&playground, nonsense).await.status, 400, "{nonsense}");
    }
}

#[tokio::test]
async fn responses_with_a_free_status_cost_nothing() {
    let free = ["--free-status", "5xx", "--free-status", "404"];
    let arguments = [&["--quota", "3/day"], &free[..]].concat();
    let playground = Playground::start(&arguments).await;
    let paths = ["/status/500", "/status/503", "/status/404", "/nowhere"];
    for _ in 0..3 {
        assert_eq!(playground.statuses(&paths).await, [500, 503, 404, 404]);
    }
    assert_eq!(left(&playground).await, "r=3");
    let paths = ["/status/400", "/", "/status/201", "/", "/status/500"];
    assert_eq!(playground.statuses(&paths).await, [400, 200, 201, 429, 429]);
}

#[tokio::test]
async fn requests_wait_for_their_reservations_and_are_rejected_beyond_max_wait() {
    let arguments = ["--quota", "2/second burst 1", "--wait", "1.2"];
    let playground = Playground::start(&arguments).await;
    let start = Instant::now();
    let four = futures_util::future::join_all((0..4).map(|_| async {
        let status = playground.get("/").await.status.as_u16();
        (status, start.elapsed())
    }));
    let mut four = timeout(TIMEOUT, four).await.expect("in time");
    four.sort_unstable_by_key(|(_, after)| *after);
    let mut statuses: Vec<_> = four.iter().map(|(status, _)| *status).collect();
    // The request at 0 s and the one that would be due at 1.5 s are answered at once.
    statuses[..2].sort_unstable();
    assert_eq!(statuses, [200, 429, 200, 200]);
    let half = Duration::from_millis(500);
    assert!(four[1].1 < half, "{four:?}");
    assert!(four[2].1 >= half - Duration::from_millis(20), "{four:?}");
    assert!(
        four[3].1 >= 2 * half - Duration::from_millis(20),
        "{four:?}"
    );
}
