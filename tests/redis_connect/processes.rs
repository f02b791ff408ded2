//! Several processes at one server, and limiters without Tower.

use std::process::Command;

use tower_sluice::backend::BackendErrorKind;
use tower_sluice::limiter::{CheckOutcome, WithFailurePolicy};
use tower_sluice::{
    AnyBackend, FailurePolicy, Key, Limiter, MemoryBackend, Policy, Quota, RedisBackend,
};

use crate::spend;
use crate::support::redis::RedisServer;

/// Runs one test of this binary in a child process, and returns its output.
pub(crate) fn process(test: &str, env: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .envs(env.iter().copied())
        .output()
        .expect("this program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {text}{errors}");
    text
}

/// The same policies as in a layer, without Tower.
#[tokio::test]
async fn failure_policy_applies_without_tower() {
    let closed = format!("redis://127.0.0.1:{}/", crate::support::free_port());
    let key = Key::from("ann");
    for (choice, outcomes) in [
        (FailurePolicy::FailOpen, ["pass"; 3]),
        (FailurePolicy::FailClosed, ["unavailable"; 3]),
        (
            FailurePolicy::Fallback(MemoryBackend::new()),
            ["allowed", "allowed", "denied"],
        ),
    ] {
        let policy = Policy::new("api", Quota::per_day(2));
        let backend = AnyBackend::from_url(&closed).expect("a URL");
        let limiter = WithFailurePolicy::new(Limiter::new(policy, backend), choice.clone());
        for expected in outcomes {
            let outcome = match limiter.check(&key, 1).await {
                CheckOutcome::Uncounted => "pass",
                CheckOutcome::Unavailable => "unavailable",
                CheckOutcome::Decided(reply) if reply.decision.is_allowed() => "allowed",
                CheckOutcome::Decided(_) => "denied",
            };
            assert_eq!(outcome, expected, "{choice:?}");
        }
        // Other operations return the error.
        let peeked = limiter.limiter().peek(&key).await.unwrap_err();
        assert_eq!(*peeked.kind(), BackendErrorKind::Unreachable);
    }
}

pub(crate) const URL: &str = "SLUICE_TEST_URL";

/// Runs by itself with its own server, and as a child process with the server of another test.
#[tokio::test]
async fn spends_one() {
    let (url, own) = match std::env::var(URL) {
        Ok(url) => (url, None),
        Err(_) => {
            let server = RedisServer::start();
            (server.url(), Some(server))
        }
    };
    let backend = RedisBackend::connect(url).await.expect("a server");
    let left = spend(&backend, "ann").await.expect("Redis");
    assert!(own.is_none() || left == 9, "{left}");
    println!("left: {left}");
}

#[tokio::test]
async fn processes_share_their_limits() {
    let server = RedisServer::start();
    let backend = RedisBackend::connect(server.url()).await.expect("a server");
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 9);
    for left in [8, 7] {
        let text = process("processes::spends_one", &[(URL, &server.url())]);
        assert!(text.contains(&format!("left: {left}")), "{text}");
    }
    assert_eq!(spend(&backend, "ann").await.expect("Redis"), 6);
    // The memory backend is not shared.
    assert_eq!(
        spend(&MemoryBackend::new(), "ann").await.expect("memory"),
        9
    );
}
