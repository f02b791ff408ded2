//! Calendar windows whose edges come from a process with another clock than the server.

use std::time::Duration;

use futures_util::future::join_all;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::quota::Every;
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn process_learns_the_time_of_a_server_that_is_windows_away() {
    // Noon in Zurich, months or years from the clock of this process.
    let clock = ManualClock::at(Timestamp::from_micros(1_806_228_000_000_000));
    let server = RedisServer::start();
    let connection = Frozen::connect(&server.url(), &clock).await;
    let backend = RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
        .from_transport(RedisConnection::new(connection));
    let quota = Quota::calendar_window(3, Every::Day, "Europe/Zurich");
    let policy = Policy::new("days", quota);
    let limiter = Limiter::new(policy.clone(), backend.clone());
    let both = Limiter::new(policy.and("other", Quota::per_day(9)), backend);
    let scripts = || server.calls("eval") + server.calls("evalsha");
    let key = Key::from("ann");

    let first = limiter.check(&key, 1).await.expect("an answer");
    assert_eq!(first.decision.snapshot().reset_after(), DAY / 2);
    assert_eq!(
        scripts(),
        2,
        "the first edges are not around the time of the server"
    );
    let other = both.check(&key, 1).await.expect("an answer");
    assert_eq!(other.decision.snapshot().remaining(), 1);
    assert_eq!(scripts(), 3, "the next edges are");
    // A window further, the known edges hold the time of the server.
    clock.advance(DAY);
    assert!(
        limiter
            .check(&key, 3)
            .await
            .expect("an answer")
            .decision
            .is_allowed()
    );
    assert_eq!(scripts(), 4);
    // Requests of one batch learn it together. Nothing was charged by the requests that were sent again.
    clock.advance(400 * DAY);
    let requests = (0..20).map(|_| limiter.check(&key, 1));
    let replies = join_all(requests).await;
    let allowed = replies
        .into_iter()
        .filter(|reply| reply.as_ref().expect("an answer").decision.is_allowed());
    assert_eq!(allowed.count(), 3);
    let before = scripts();
    let denied = limiter.check(&key, 1).await.expect("an answer");
    assert!(!denied.decision.is_allowed());
    assert_eq!(scripts(), before + 1);
}
