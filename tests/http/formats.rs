//! The header fields that the playground writes.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::playground::{Answer, Playground};

/// The rate limit fields, in alphabetical order.
fn reported(answer: &Answer) -> Vec<(&str, &str)> {
    let mut reported: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")))
        .filter(|(name, _)| name.contains("ratelimit"))
        .collect();
    reported.sort_unstable();
    reported
}

async fn reported_in(format: &[&str]) -> (Playground, Answer) {
    // A bucket of 3 that refills one token in an hour.
    let arguments = [&["--quota", "3/3h"], format].concat();
    let playground = Playground::start(&arguments).await;
    let answer = playground.get("/cost/3").await;
    assert_eq!(answer.status, 200);
    (playground, answer)
}

#[tokio::test]
async fn a_quota_in_bytes_names_its_unit() {
    let playground = Playground::start(&["--quota", "10GB/day burst 1GiB"]).await;
    let answer = playground.get("/cost/1000000").await;
    let limit = "\"default\";q=1073741824;qu=\"content-bytes\";w=9278";
    let expected = [
        ("ratelimit", "\"default\";r=1072741824"),
        ("ratelimit-policy", limit),
    ];
    assert_eq!(reported(&answer), expected);
}

#[tokio::test]
async fn draft_11_is_the_default() {
    for format in [&[][..], &["--header-format", "draft11"]] {
        let (_playground, answer) = reported_in(format).await;
        let expected = [
            ("ratelimit", "\"default\";r=0;t=3600"),
            ("ratelimit-policy", "\"default\";q=3;w=10800"),
        ];
        assert_eq!(reported(&answer), expected);
    }
}

#[tokio::test]
async fn every_other_format_can_be_selected() {
    let plain = ("ratelimit-policy", "3;w=10800");
    let expected: [(&str, &[(&str, &str)]); 4] = [
        (
            "draft07",
            &[("ratelimit", "limit=3, remaining=0, reset=10800"), plain],
        ),
        (
            "draft06",
            &[
                ("ratelimit-limit", "3"),
                plain,
                ("ratelimit-remaining", "0"),
                ("ratelimit-reset", "10800"),
            ],
        ),
        (
            "x-delta",
            &[
                ("x-ratelimit-limit", "3"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "10800"),
            ],
        ),
        ("none", &[]),
    ];
    for (format, fields) in expected {
        let (playground, answer) = reported_in(&["--header-format", format]).await;
        assert_eq!(reported(&answer), fields);
        let rejected = playground.get("/").await;
        assert_eq!(rejected.status, 429);
        let wait = rejected.retry_after();
        assert!((3_590..=3_600).contains(&wait), "{wait}");
    }
}

#[tokio::test]
async fn x_epoch_reset_is_a_unix_time() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after");
    let before = now().as_secs();
    let (_playground, answer) = reported_in(&["--header-format", "x-epoch"]).await;
    let reset: u64 = answer
        .field("x-ratelimit-reset")
        .expect("a reset")
        .parse()
        .expect("s");
    let least = before + 10_800;
    assert!(
        (least..=now().as_secs() + 10_801).contains(&reset),
        "{reset}"
    );
    assert_eq!(answer.field("x-ratelimit-remaining"), Some("0"));
}

#[test]
fn unknown_format_error_lists_the_known_formats() {
    let playground = std::process::Command::new(crate::playground::playground())
        .args(["--header-format", "draft12"])
        .output()
        .expect("the playground runs");
    assert_eq!(playground.status.code(), Some(2));
    let why = String::from_utf8(playground.stderr).expect("text");
    assert!(why.contains("draft12") && why.contains("--header-format"));
}
