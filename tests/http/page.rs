//! The endpoints behind the playground's page. `tests/browser` tests the page itself.

use http::Method;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::playground::{Answer, Playground};

async fn config(playground: &Playground) -> Value {
    let answer = playground.get("/_playground/config").await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("cache-control")),
        (200, Some("no-store"))
    );
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn replace(playground: &Playground, quotas: &str) -> Answer {
    let mut request = playground.request(Method::PUT, "/_playground/quota");
    *request.body_mut() = Full::from(quotas.to_owned());
    playground.send(request).await
}

#[tokio::test]
async fn the_page_is_not_limited_and_loads_nothing() {
    let playground = Playground::start(&["--quota", "1/week", "--in-flight", "1"]).await;
    // All tokens are used up.
    let stream = playground.request(Method::GET, "/stream/100");
    let _stream = playground.client.request(stream).await.expect("an answer");
    for _ in 0..3 {
        let page = playground.get("/_playground").await;
        assert_eq!(page.status, 200);
        assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.field("cache-control"), Some("no-store"));
        assert_eq!(
            page.field("content-security-policy"),
            Some(
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
            )
        );
        assert_eq!(page.field("ratelimit"), None);
        config(&playground).await;
    }
    let statuses = playground
        .statuses(&["/", "/nowhere", "/_playground"])
        .await;
    assert_eq!(statuses, [429, 429, 200]);
}

#[tokio::test]
async fn playground_shows_its_configuration() {
    let playground = Playground::start(&[]).await;
    let plain = json!({
        "policy": "default",
        "quotas": [{
            "name": "default", "text": "10/second burst 20", "algorithm": "token-bucket",
            "limit": 20, "refill": 10, "period_us": 1_000_000,
        }],
        "key": "ip", "header_format": "draft11", "shadow": false, "in_flight": null, "lease": 30.0, "wait": null,
    });
    assert_eq!(config(&playground).await, plain);

    let mut reported = vec![
        "--name",
        "api",
        "--key",
        "header:X-Api-Key",
        "--in-flight",
        "3",
        "--lease",
        "5",
        "--wait",
        "0.5",
    ];
    for quota in [
        "interval:2/5s burst 7",
        "fixed-window:20/minute",
        "sliding-window:1000000/day",
        "sliding-log:5/250ms",
    ] {
        reported.extend(["--quota", quota]);
    }
    let config = config(&Playground::start(&reported).await).await;
    let quota = |name, text, algorithm, limit, refill, period_us: u64| {
        json!({
            "name": name, "text": text, "algorithm": algorithm, "limit": limit, "refill": refill, "period_us": period_us,
        })
    };
    let quotas = [
        quota(
            "api-1",
            "interval:2/5 seconds burst 7",
            "interval",
            7,
            2,
            5_000_000,
        ),
        quota(
            "api-2",
            "fixed-window:20/minute",
            "fixed-window",
            20,
            20,
            60_000_000,
        ),
        quota(
            "api-3",
            "sliding-window:1000000/day",
            "sliding-window",
            1_000_000,
            1_000_000,
            86_400_000_000,
        ),
        quota(
            "api-4",
            "sliding-log:5/250 milliseconds",
            "sliding-log",
            5,
            5,
            250_000,
        ),
    ];
    assert_eq!(config["quotas"], json!(quotas));
    assert_eq!(config["key"], "header:X-Api-Key");
    assert_eq!(
        (&config["in_flight"], &config["lease"], &config["wait"]),
        (&json!(3), &json!(5.0), &json!(0.5))
    );
}

#[tokio::test]
async fn replaced_quota_applies_from_the_next_request() {
    let playground = Playground::start(&["--quota", "1/week", "--name", "try"]).await;
    assert_eq!(playground.statuses(&["/", "/"]).await, [200, 429]);
    let replaced = replace(&playground, "4/week").await;
    assert_eq!(replaced.status, 200);
    let reported: Value = serde_json::from_str(&replaced.body).expect("JSON");
    assert_eq!(reported["quotas"][0]["text"], "4/week");
    assert_eq!(reported, config(&playground).await);
    // Spent tokens stay spent when the numbers of a bucket change.
    assert_eq!(
        playground.get("/").await.field("ratelimit"),
        Some("\"try\";r=2")
    );

    assert_eq!(
        replace(&playground, "9/week, fixed-window:2/week")
            .await
            .status,
        200
    );
    let answer = playground.get("/").await;
    let reported = answer.field("ratelimit").expect("two limits");
    assert!(
        reported.starts_with("\"try-1\";r=8, \"try-2\";r=1;t="),
        "{reported}"
    );
}

#[tokio::test]
async fn invalid_quota_text_gets_the_parse_error() {
    let playground = Playground::start(&["--quota", "3/week"]).await;
    for (text, why) in [
        (
            "often",
            r#"invalid quota "often": expected a count, "/" and a unit; use for example "100/minute", "10 per 1 hour" or "5/s burst 20""#,
        ),
        (
            "",
            r#"invalid quota "": the text is empty; use for example "100/minute""#,
        ),
        (
            "<b>:1/s",
            r#"invalid quota "<b>:1/s": unknown algorithm "<b>"; use token-bucket, interval, fixed-window, sliding-window, sliding-log, total or calendar, such as "token-bucket:1/s""#,
        ),
        (
            "1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s,1/s",
            "invalid policy of 9 quotas: use 1 to 8",
        ),
    ] {
        let rejected = replace(&playground, text).await;
        assert_eq!((rejected.status.as_u16(), &*rejected.body), (400, why));
        assert_eq!(
            rejected.field("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    assert_eq!(
        replace(&playground, &"1/s,".repeat(2_000)).await.status,
        413
    );
    assert_eq!(
        playground.get("/").await.field("ratelimit"),
        Some("\"default\";r=2")
    );
}
