//! How long Redis keeps a key that quotas of different speed share: no write shortens it.

mod support;

use std::time::Duration;

use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::backend::{Answer, Backend, BackendErrorKind, Op, Reply};
use tower_sluice::clock::{ManualClock, Timestamp};
use tower_sluice::{Cost, Key, Limiter, Policy, Quota, Receipt, RedisBackend, Reservation};

use crate::support::expiring::Expiring;
use crate::support::frozen::Frozen;
use crate::support::redis::RedisServer;

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

const KEY_PREFIX: &str = "{sluice:api:rann}";

fn ann() -> Key {
    Key::from("ann")
}

fn builder(atomicity: Atomicity) -> RedisBuilder {
    RedisBackend::builder()
        .atomicity(atomicity)
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
}

/// The time to live of the only key of this server, ms.
fn left(server: &RedisServer) -> u64 {
    let keys = server.keys();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let left: i64 = server.get(&["PTTL", &keys[0]]);
    u64::try_from(left).expect("the key expires")
}

/// Two quotas of one key, the slower one first.
fn pairs() -> [(Quota, Quota); 4] {
    let bucket = Quota::interval_bucket;
    [
        (Quota::per_hour(60), Quota::per_second(100)),
        // A token of both has the same number of grains.
        (
            Quota::per_second(1).burst(9_000),
            Quota::per_second(3).burst(9_000),
        ),
        (bucket(60, 60, HOUR), bucket(100, 100, SECOND)),
        (bucket(9_000, 1, SECOND), bucket(9_000, 3, SECOND)),
    ]
}

/// The operations of the faster quota.
const OPERATIONS: [&str; 6] = [
    "check",
    "denied check",
    "reserve",
    "penalty",
    "refund",
    "cancel",
];

/// An earlier charge.
struct Charged {
    receipt: Receipt,
    reservation: Reservation,
}

async fn operate(limiter: &Limiter<RedisBackend>, operation: &str, charged: Charged) -> Reply {
    let Charged {
        mut receipt,
        reservation,
    } = charged;
    let limit = limiter.policy().quotas()[0].quota().limit();
    let op = match operation {
        "check" => Op::Check(Cost::ONE),
        "denied check" => Op::Check(Cost::new(limit)),
        "reserve" => Op::Reserve {
            cost: Cost::ONE,
            max_wait: HOUR,
        },
        "penalty" => Op::Penalize(Cost::ONE),
        "refund" => Op::Refund(receipt.take(Cost::ONE)),
        "cancel" => Op::Cancel(reservation),
        other => panic!("{other}"),
    };
    match limiter.backend().ask(op, limiter.policy(), &ann()) {
        Answer::Now(reply) => reply.expect("an answer"),
        Answer::Later(reply) => reply.await.expect("an answer"),
    }
}

#[tokio::test]
async fn an_operation_by_a_faster_quota_keeps_the_expiry_of_a_slower_one() {
    let server = RedisServer::start();
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let backend = builder(atomicity)
            .connect(server.url())
            .await
            .expect("the server runs");
        for (slow, fast) in pairs() {
            let what = format!("{fast} after {slow}, {atomicity:?}");
            let slow = Limiter::new(Policy::new("api", slow), backend.clone());
            let fast = slow.with_policy(&Policy::new("api", fast));
            for operation in OPERATIONS {
                let most = slow.policy().quotas()[0].quota().limit() - 10;
                let first = slow.check(&ann(), most).await.expect("an answer").decision;
                assert!(first.is_allowed(), "{what}");
                let owed = first.snapshot().reset_after();
                let receipt = fast.check(&ann(), 1).await.expect("an answer").receipt;
                let reservation = fast
                    .reserve(&ann(), 1, HOUR)
                    .await
                    .expect("an answer")
                    .reservation;
                let charged = Charged {
                    receipt: receipt.expect("allowed"),
                    reservation: reservation.expect("a reservation"),
                };
                let reply = operate(&fast, operation, charged).await;
                assert_eq!(reply.decision.is_allowed(), operation != "denied check");
                assert_eq!(reply.returned, operation == "cancel", "{what}: {operation}");
                let kept = Duration::from_millis(left(&server));
                // All of this takes less than a minute on any machine.
                assert!(
                    kept + 60 * SECOND > owed,
                    "{what}: {operation}, {kept:?} of {owed:?}"
                );
                let _ = slow.reset(&ann()).await.expect("an answer");
            }
        }
    }
}

/// A cancel by a slower quota than the one that reserved needs the key for longer. The stored state says so.
#[tokio::test]
async fn a_cancel_by_a_slower_quota_lengthens_the_expiry_for_good() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let frozen = Frozen::connect(&server.url(), &clock).await;
    let backend = builder(Atomicity::Script).from_transport(RedisConnection::new(frozen));
    for (slow, fast) in pairs() {
        let what = format!("{fast} after {slow}");
        let slow = Limiter::new(Policy::new("api", slow), backend.clone());
        let fast = slow.with_policy(&Policy::new("api", fast));
        let most = slow.policy().quotas()[0].quota().limit() - 10;
        let first = fast.check(&ann(), most).await.expect("an answer").decision;
        assert!(first.is_allowed(), "{what}");
        let reservation = fast
            .reserve(&ann(), 1, HOUR)
            .await
            .expect("an answer")
            .reservation;
        let op = Op::Cancel(reservation.expect("a reservation"));
        let reply = match backend.ask(op, slow.policy(), &ann()) {
            Answer::Now(reply) => reply.expect("an answer"),
            Answer::Later(reply) => reply.await.expect("an answer"),
        };
        assert!(reply.returned, "{what}");
        let owed = reply.decision.snapshot().reset_after();
        assert!(owed > 30 * 60 * SECOND, "{what}: {owed:?}");
        for step in ["a cancel", "a check"] {
            let kept = Duration::from_millis(left(&server));
            // All of this takes less than a minute on any machine.
            assert!(
                kept + 60 * SECOND > owed,
                "{what}, after {step}: {kept:?} of {owed:?}"
            );
            let next = fast.check(&ann(), 1).await.expect("an answer").decision;
            assert!(next.is_allowed(), "{what}");
        }
        let _ = slow.reset(&ann()).await.expect("an answer");
    }
}

/// Replaces the expiry of the only key by a longer one that no write sets.
fn mark_expiry(server: &RedisServer) {
    let keys = server.keys();
    assert_eq!(server.get::<i64>(&["PEXPIRE", &keys[0], "900000000"]), 1);
}

fn has_marked_expiry(server: &RedisServer) -> bool {
    left(server) > 800_000_000
}

#[tokio::test]
async fn charges_within_a_second_share_an_expiry() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let frozen = Frozen::connect(&server.url(), &clock).await;
    let backend = builder(Atomicity::Script).from_transport(RedisConnection::new(frozen));
    for (quota, is_bucket) in [
        (Quota::per_second(1_000), true),
        (Quota::interval_bucket(1_000, 1, SECOND / 100), true),
        (Quota::fixed_window(1_000, HOUR), false),
        (Quota::sliding_window(1_000, HOUR), false),
    ] {
        let limiter = Limiter::new(Policy::new("api", quota), backend.clone());
        let charge = async || {
            let reply = limiter.check(&ann(), 1).await.expect("an answer");
            assert!(reply.decision.is_allowed(), "{quota}");
        };
        charge().await;
        mark_expiry(&server);
        charge().await;
        // A bucket that is written again is kept for a second more. A window has one expiry.
        assert_eq!(has_marked_expiry(&server), !is_bucket, "{quota}");
        mark_expiry(&server);
        clock.advance(Duration::from_millis(900));
        charge().await;
        assert!(has_marked_expiry(&server), "{quota}");
        clock.advance(Duration::from_millis(200));
        charge().await;
        assert_eq!(has_marked_expiry(&server), !is_bucket, "{quota}");
        let _ = limiter.reset(&ann()).await.expect("an answer");
    }
}

#[tokio::test]
async fn idle_ttl_counts_from_the_last_write() {
    let server = RedisServer::start();
    let backend = builder(Atomicity::Script).idle_ttl(HOUR);
    let backend = backend.connect(server.url()).await.expect("a server");
    for quota in [
        Quota::per_second(1_000),
        Quota::interval_bucket(1_000, 1_000, SECOND),
        Quota::fixed_window(1_000, SECOND),
        Quota::sliding_window(1_000, SECOND),
    ] {
        let limiter = Limiter::new(Policy::new("api", quota), backend.clone());
        for _ in 0..3 {
            let reply = limiter.check(&ann(), 1).await.expect("an answer");
            assert!(reply.decision.is_allowed(), "{quota}");
            assert!(!has_marked_expiry(&server), "{quota}");
            mark_expiry(&server);
        }
        let _ = limiter.reset(&ann()).await.expect("an answer");
    }
}

/// Both clocks are manual: the one that decides, and the one by which keys expire.
#[tokio::test]
async fn a_debt_outlives_the_charge_of_a_faster_quota() {
    let server = RedisServer::start();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let frozen = Frozen::connect(&server.url(), &clock).await;
    let redis = builder(Atomicity::Script).from_transport(RedisConnection::new(frozen));
    let redis = Expiring::new(&server.url(), redis, &clock, true);
    let slow = Limiter::new(Policy::new("api", Quota::per_hour(60)), redis);
    let fast = slow.with_policy(&Policy::new("api", Quota::per_second(100)));
    let reply = slow.check(&ann(), 60).await.expect("an answer");
    assert!(reply.decision.is_allowed());
    for _ in 0..2 {
        let reply = fast.check(&ann(), 1).await.expect("an answer");
        assert!(reply.decision.is_allowed());
    }
    clock.advance(Duration::from_millis(2_300));
    let reply = slow.check(&ann(), 1).await.expect("an answer");
    assert!(!reply.decision.is_allowed());
}

/// The state of the previous format, which does not store its expiry.
#[tokio::test]
async fn bucket_of_the_previous_format_keeps_its_debt() {
    const OLD_BUCKET: &str =
        "return redis.call('SET', KEYS[1], struct.pack('<c2i8i8i8i8', 'b1', unpack(ARGV)))";
    const OLD_INTERVAL: &str =
        "return redis.call('SET', KEYS[1], struct.pack('<c2i8i8i8', 'i1', unpack(ARGV)))";
    let server = RedisServer::start();
    let [seconds, micros]: [u64; 2] = server.get(&["TIME"]);
    let now = (seconds * 1_000_000 + micros).to_string();
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let backend = builder(atomicity)
            .connect(server.url())
            .await
            .expect("the server runs");
        // The debt is 7 tokens, and one refills in an hour.
        let cases: [(Quota, &str, &str, &[&str]); 2] = [
            (
                Quota::token_bucket(10, 1, HOUR),
                "b",
                OLD_BUCKET,
                &["25200000000", &now, "3600000000", "10"],
            ),
            (
                Quota::interval_bucket(10, 1, HOUR),
                "i",
                OLD_INTERVAL,
                &["7", &now, "10"],
            ),
        ];
        for (quota, suffix, script, numbers) in cases {
            let limiter = Limiter::new(Policy::new("api", quota), backend.clone());
            let key = format!("{KEY_PREFIX}:{suffix}");
            let mut words = vec!["EVAL", script, "1", &key];
            words.extend(numbers);
            let _ = server.command(&words);
            let look = limiter.peek(&ann()).await.expect("an answer");
            assert_eq!(look.remaining(), 3, "{quota}");
            let length: usize = server.get(&["STRLEN", &key]);
            let reply = limiter.check(&ann(), 1).await.expect("an answer");
            assert_eq!(reply.decision.snapshot().remaining(), 2, "{quota}");
            assert_eq!(
                server.get::<usize>(&["STRLEN", &key]),
                length + 8,
                "{quota}"
            );
            assert!(left(&server) > 7 * 3_600_000, "{quota}");
            let _ = limiter.reset(&ann()).await.expect("an answer");
        }
    }
}

/// A mark of one format with the length of the other is not ours.
#[tokio::test]
async fn value_of_mixed_formats_is_corrupt() {
    let server = RedisServer::start();
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let backend = builder(atomicity)
            .connect(server.url())
            .await
            .expect("the server runs");
        for (quota, suffix, mark, numbers) in [
            (Quota::per_hour(9), "b", "b1", 5),
            (Quota::per_hour(9), "b", "b2", 4),
            (Quota::interval_bucket(9, 9, HOUR), "i", "i1", 4),
            (Quota::interval_bucket(9, 9, HOUR), "i", "i2", 3),
        ] {
            let key = format!("{KEY_PREFIX}:{suffix}");
            let zeros = "\u{1}\0\0\0\0\0\0\0".repeat(numbers);
            let _ = server.command(&["SET", &key, &format!("{mark}{zeros}")]);
            let limiter = Limiter::new(Policy::new("api", quota), backend.clone());
            let error = limiter.check(&ann(), 1).await.expect_err("a foreign value");
            assert_eq!(
                *error.kind(),
                BackendErrorKind::Corrupt,
                "{mark}, {atomicity:?}"
            );
            let _ = server.command(&["DEL", &key]);
        }
    }
}

/// A total has no expiry, unless it is forgotten. A tier that forgets does not shorten the life of the other's state.
#[tokio::test]
async fn total_is_kept_for_ever_unless_it_is_forgotten() {
    let server = RedisServer::start();
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let backend = builder(atomicity)
            .connect(server.url())
            .await
            .expect("the server runs");
        let kept = Limiter::new(Policy::new("api", Quota::total(9)), backend.clone());
        let forgotten = kept.with_policy(&Policy::new("api", Quota::total(9).forget_after(HOUR)));
        let expiry = || -> i64 { server.get(&["PTTL", &format!("{KEY_PREFIX}:t")]) };
        let key = ann();
        for (limiter, expires) in [(&forgotten, true), (&kept, false), (&forgotten, false)] {
            let mut receipt = limiter
                .check(&key, 2)
                .await
                .expect("an answer")
                .receipt
                .expect("allowed");
            assert_eq!(expiry() > 0, expires, "{atomicity:?}");
            assert!(
                !expires || (3_590_000..=3_601_000).contains(&expiry()),
                "{}",
                expiry()
            );
            let left = limiter
                .refund(&key, &mut receipt, 1)
                .await
                .expect("an answer");
            assert!(left.reset_after() == Duration::MAX && (expiry() > 0) == expires);
            let _ = limiter.penalize(&key, 1).await.expect("an answer");
            assert_eq!(expiry() > 0, expires, "{atomicity:?}");
        }
        let look = kept.peek(&key).await.expect("an answer");
        assert_eq!((look.remaining(), look.reset_after()), (3, Duration::MAX));
        let _ = kept.reset(&key).await.expect("an answer");
        // A total that is given back in whole leaves no key behind.
        let mut receipt = kept
            .check(&key, 2)
            .await
            .expect("an answer")
            .receipt
            .expect("allowed");
        let _ = kept.refund(&key, &mut receipt, 2).await.expect("an answer");
        assert!(
            (0..=1_000).contains(&expiry()),
            "{atomicity:?}: {}",
            expiry()
        );
        let _ = kept.reset(&key).await.expect("an answer");
    }
}

/// A block stays after a reset, and its key expires a second after its end.
#[tokio::test]
async fn block_has_a_key_of_its_own_that_expires_after_its_end() {
    let server = RedisServer::start();
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let builder = RedisBackend::builder().atomicity(atomicity);
        let backend = builder.time_limit(Duration::from_secs(20));
        let backend = backend
            .connect(server.url())
            .await
            .expect("the server runs");
        let limiter = Limiter::new(Policy::new("api", Quota::per_hour(9)), backend);
        let block = format!("{KEY_PREFIX}:x");
        let ann = ann();
        let is_allowed = async || {
            let reply = limiter.check(&ann, 1).await.expect("an answer");
            reply.decision.is_allowed()
        };
        assert!(is_allowed().await);
        limiter.block(&ann, HOUR).await.expect("an answer");
        let left: u64 = server.get(&["PTTL", &block]);
        assert!((3_590_000..=3_601_000).contains(&left), "{left}");
        let _ = limiter.reset(&ann).await.expect("an answer");
        assert_eq!(server.keys(), std::slice::from_ref(&block));
        // The denial is cached here, and the end of the block removes it.
        assert!(!is_allowed().await && !is_allowed().await);
        assert!(limiter.is_blocked(&ann).await.expect("an answer"));
        server.command(&["DEL", &block]);
        assert!(!is_allowed().await, "for up to a second");
        assert!(!limiter.is_blocked(&ann).await.expect("an answer"));
        limiter.unblock(&ann).await.expect("an answer");
        assert!(is_allowed().await);
        for value in ["x1", "b2 of eighteen by."] {
            server.command(&["SET", &block, value]);
            let error = limiter.check(&ann, 1).await.unwrap_err();
            assert_eq!(*error.kind(), BackendErrorKind::Corrupt, "{value}");
        }
        server.command(&["DEL", &block]);
        server.command(&["RPUSH", &block, "1"]);
        let error = limiter.block(&ann, HOUR).await.unwrap_err();
        assert_eq!(*error.kind(), BackendErrorKind::Corrupt);
        server.command(&["FLUSHALL"]);
    }
}

/// Tiers with other calendars share a key. The shorter window does not end the key of the longer one.
#[cfg(feature = "calendar")]
#[tokio::test]
async fn calendar_window_does_not_shorten_the_life_of_a_longer_one() {
    use tower_sluice::quota::Every;
    let server = RedisServer::start();
    let quota = |every| Policy::new("api", Quota::calendar_window(9, every, "Asia/Kathmandu"));
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        let backend = builder(atomicity)
            .connect(server.url())
            .await
            .expect("the server runs");
        let days = Limiter::new(quota(Every::Day), backend.clone());
        let years = days.with_policy(&quota(Every::Year { month: 7, day: 1 }));
        let key = ann();
        let (mut longest, mut receipts) = (0, Vec::new());
        for limiter in [&days, &years, &days] {
            let reply = limiter.check(&key, 1).await.expect("an answer");
            let end = reply.decision.snapshot().reset_after().as_millis();
            longest = u64::try_from(end).expect("fits").max(longest);
            receipts.push(reply.receipt.expect("allowed"));
            // A second more than needed, and some seconds for a busy machine.
            let kept = left(&server);
            assert!(
                kept + 20_000 >= longest && kept <= longest + 2_000,
                "{atomicity:?}: {kept} of {longest}"
            );
        }
        let _ = days.penalize(&key, 1).await.expect("an answer");
        assert!(left(&server) + 20_000 >= longest, "{atomicity:?}");
        let back = days
            .refund(&key, &mut receipts[2], 1)
            .await
            .expect("an answer");
        assert_eq!(back.remaining(), 6);
        assert!(left(&server) + 20_000 >= longest, "{atomicity:?}");
        assert_eq!(server.keys(), [format!("{KEY_PREFIX}:d")]);
        let _ = days.reset(&key).await.expect("an answer");
    }
}
