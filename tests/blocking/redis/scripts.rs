//! Scripts and cached denials.

use tower_sluice::Key;
use tower_sluice::blocking::{Limiter, RedisBackend};

use super::{check, connect, tokens, uncached_builder};
use crate::shared_checks::{HOUR, assert_waiters_leave_no_debt};
use crate::support::redis::RedisServer;

#[test]
fn waiters_that_leave_from_the_front_leave_no_debt() {
    let server = RedisServer::start();
    let backend = uncached_builder()
        .time_limit(HOUR)
        .connect_blocking(server.url());
    assert_waiters_leave_no_debt(&backend.expect("the server runs"));
}

#[test]
fn flushed_scripts_are_loaded_again() {
    let server = RedisServer::start();
    let limiter = connect(&server, 10);
    let key = Key::from("ann");
    assert_eq!(check(&limiter, &key), Ok(1));
    for count in 1..=3 {
        server.command(&["SCRIPT", "FLUSH"]);
        server.command(&["CONFIG", "RESETSTAT"]);
        assert_eq!(check(&limiter, &key), Ok(2 * count));
        assert_eq!(check(&limiter, &key), Ok(2 * count + 1));
        assert_eq!((server.calls("EVALSHA"), server.calls("EVAL")), (2, 1));
    }
}

#[test]
fn cached_denial_sends_no_command() {
    let mut server = RedisServer::start();
    let backend = RedisBackend::builder().deny_cache(HOUR);
    let backend = backend
        .connect_blocking(server.url())
        .expect("the server runs");
    let limiter = Limiter::new(tokens(1), backend);
    let ann = Key::from("ann");
    assert_eq!(check(&limiter, &ann), Ok(1));
    let denied = limiter.check(&ann, 1).expect("Redis").decision;
    assert!(!denied.is_allowed());
    server.command(&["CONFIG", "RESETSTAT"]);
    for _ in 0..10 {
        let again = limiter
            .check(&ann, 1)
            .expect("the denial is cached")
            .decision;
        assert!(!again.is_allowed());
        assert!(again.retry_after().is_some());
    }
    assert_eq!(server.calls("EVALSHA"), 0);
    // An operation through this backend clears its cached denial.
    limiter.reset(&ann).expect("Redis");
    assert_eq!(check(&limiter, &ann), Ok(1));
    assert!(!limiter.check(&ann, 1).expect("Redis").decision.is_allowed());
    server.kill9();
    let known = limiter.check(&ann, 1).expect("the denial is cached");
    assert!(!known.decision.is_allowed());
    assert!(limiter.check(&Key::from("bob"), 1).is_err());
}
