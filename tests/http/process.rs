//! The process of the playground: its arguments, and its end.

use std::io::{BufRead as _, Write as _};
use std::net::TcpListener;
use std::process::{Command as StdCommand, Output, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::playground::{Playground, TIMEOUT, playground};

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
        (["--admin-token", ""], "use a token of visible ASCII"),
        (["--nonsense", "1"], "--nonsense"),
    ] {
        // `--listen` must not be given twice.
        let free: &[_] = if bad[0] == "--listen" { &[] } else { &free };
        let line = complaint(&[free, &bad[..]].concat()).await;
        assert!(line.contains(named), "{bad:?}: {line}");
    }
}

/// With one hash tag, a key within another one has a name that the route does not know.
#[cfg(feature = "cluster")]
#[tokio::test]
async fn token_for_blocks_is_refused_with_scopes_on_a_cluster() {
    let arguments = [
        ["--backend", "redis+cluster://127.0.0.1:1/"],
        ["--within", "org=100/minute@header:x-org"],
        ["--admin-token", "s3cret"],
    ];
    let line = complaint(arguments.as_flattened()).await;
    assert!(line.contains("--admin-token cannot block a key"), "{line}");
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
