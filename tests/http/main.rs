//! The example `playground` from outside: as a process, over real connections, in real time.
#![cfg(feature = "axum")]

mod charges;
mod examples;
mod formats;
mod in_flight;
mod keys;
#[cfg(feature = "metrics")]
mod metrics;
mod page;
mod playground;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead as _, Write as _};
use std::net::TcpListener;
use std::process::{Command as StdCommand, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::process::Command;
use tokio::time::timeout;

use crate::playground::{Playground, TIMEOUT, playground};

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

async fn stops_with_success(signal: &str) {
    let mut idle = Playground::start(&[]).await;
    assert_eq!(idle.get("/").await.status, 200); // and its connection stays open
    let start = Instant::now();
    assert_eq!(idle.stop(signal).await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );

    let mut busy = Playground::start(&[]).await;
    let request = busy.request(Method::GET, "/stream/100000");
    let mut response = busy.client.request(request).await.expect("an answer");
    let first = response.frame().await.expect("a chunk").expect("no error");
    assert_eq!(first.into_data().expect("data"), "chunk 1\n");
    let start = Instant::now();
    assert_eq!(busy.stop(signal).await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn sigterm_stops_a_streaming_playground() {
    stops_with_success("-TERM").await;
}

#[tokio::test]
async fn sigint_stops_a_streaming_playground() {
    stops_with_success("-INT").await;
}

/// A fixed bug: the signal handlers were installed after the first line. A signal right after that line ended the
/// process with a status other than 0.
#[test]
fn signal_right_after_start_stops_the_server() {
    for _ in 0..10 {
        let mut process = Killed(
            StdCommand::new(playground())
                .args(["--listen", "127.0.0.1:0"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("the playground runs"),
        );
        // Started beforehand, to be quick.
        let mut killer = StdCommand::new("sh")
            .args(["-c", "read go; kill -TERM $0", &process.0.id().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdout = std::io::BufReader::new(process.0.stdout.take().expect("piped"));
        stdout.read_line(&mut String::new()).expect("a first line");
        let mut go = killer.stdin.take().expect("piped");
        go.write_all(b"\n").expect("the reader is open");
        assert!(killer.wait().expect("the process ends").success());
        let end = process.0.wait().expect("the server stops");
        assert_eq!(end.code(), Some(0), "{end}");
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the program to its end.
async fn run(arguments: &[&str]) -> Output {
    let output = Command::new(playground())
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = timeout(TIMEOUT, output).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} are accepted"));
    output.expect("the playground runs")
}

/// Checks that these arguments are rejected with status 2 and one line. Returns the line.
async fn complaint(arguments: &[&str]) -> String {
    let output = run(arguments).await;
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    let line = stderr.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n') && !line.is_empty(), "{stderr:?}");
    assert!(line.starts_with("error: "), "{line}");
    line.to_owned()
}

#[tokio::test]
async fn bad_arguments_are_named_in_one_line() {
    let free = ["--listen", "127.0.0.1:0"];
    for (bad, named) in [
        (["--quota", "often"], "often"),
        (["--quota", "0/second"], "0/second"),
        (["--quota", "1/month"], "1/month"),
        (["--quota", "leaky:1/second"], "leaky"),
        (["--quota", "a\nb"], r#"invalid quota "a\nb": expected"#),
        (["--quota", ""], "--quota"),
        (
            ["--quota", "5/s, burst 20"],
            "use for example \"5/s burst 20\"",
        ),
        (
            ["--quota", "10/s, 1000/h"],
            "expected one quota, not a list",
        ),
        (["--quota", "2TB/day"], "use at most 1099511627776"),
        (
            ["--backend", "postgres://localhost"],
            "postgres://localhost",
        ),
        (["--key", "cookie"], "such as header:x-api-key"),
        (["--key", "header:"], "use for example header:x-api-key"),
        (["--key", "header:a b"], "a b"),
        (["--key", "cookie:"], "invalid cookie name \"\""),
        (["--key", "cookie:a b"], "invalid cookie name \"a b\""),
        (["--key", "query:"], "query:NAME"),
        (["--key", "bearer:x"], "bearer:x"),
        (
            ["--trusted-proxy", "10.0.0.0/33"],
            "invalid network \"10.0.0.0/33\": the prefix",
        ),
        (["--trusted-proxy", "10.0.0.1/8"], "use \"10.0.0.0/8\""),
        (
            ["--trusted-proxy", "proxy.internal"],
            "invalid network \"proxy.internal\"",
        ),
        (["--trusted-proxy", ""], "use a network"),
        (
            ["--trusted-proxy", "::1\n::2"],
            r#"invalid network "::1\n::2""#,
        ),
        (["--forwarded-header", "a b"], "such as x-forwarded-for"),
        (["--name", "two words"], "two words"),
        (["--name", ""], "name"),
        (["--wait", "soon"], "'soon' for '--wait"),
        (["--wait", "-1"], "'-1' for '--wait"),
        (["--wait", "inf"], "'inf' for '--wait"),
        (["--free-status", "9xx"], "'9xx' for '--free-status"),
        (["--free-status", "6000"], "'6000' for '--free-status"),
        (
            ["--in-flight", "0"],
            "use a number from 1 to 65535, such as 10",
        ),
        (
            ["--in-flight", "x"],
            "use a number from 1 to 65535, such as 10",
        ),
        (
            ["--backend-timeout", "0"],
            "use milliseconds from 1 on, such as 250",
        ),
        (
            ["--backend-timeout", "1s"],
            "use milliseconds from 1 on, such as 250",
        ),
        (["--in-flight", "70000"], "70000"),
        (
            ["--lease", "0.05"],
            "invalid lease of 50ms: use 100 ms to 1 day",
        ),
        (["--lease", "-3"], "'-3' for '--lease"),
        (["--listen", "localhost"], "such as 127.0.0.1:3000"),
        (["--listen", "127.0.0.1:70000"], "70000"),
        (["--nonsense", "1"], "--nonsense"),
    ] {
        // `--listen` must not be given twice.
        let free: &[_] = if bad[0] == "--listen" { &[] } else { &free };
        let line = complaint(&[free, &bad[..]].concat()).await;
        assert!(line.contains(named), "{bad:?}: {line}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let line = complaint(&["--listen", &address]).await;
    assert!(line.contains(&address), "{line}");
}

#[tokio::test]
async fn help_exits_with_success() {
    let output = run(&["--help"]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("text");
    for option in [
        "--listen",
        "--backend",
        "--quota",
        "--key",
        "--name",
        "--trusted-proxy",
        "--forwarded-header",
    ] {
        assert!(help.contains(option), "{help}");
    }
}
