//! The cost of a decision on a real server: commands, µs, and the expiry of its keys.

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::Value;
use tower_sluice::backend::BackendError;
use tower_sluice::backend::redis::adapter::RedisConnection;
use tower_sluice::backend::redis::{Atomicity, RedisBuilder};
use tower_sluice::{Key, Limiter, Policy, Quota, RedisBackend};

use crate::support::redis::RedisServer;

const DAY: Duration = Duration::from_secs(86_400);

/// No window of these ends during a test, except in one night in three years.
const AGE: Duration = Duration::from_secs(1_000 * 86_400);

/// How often each operation is measured.
const TIMES: u64 = 1_000;

/// The keys of a batch: one is sent alone, and the others are sent together after it.
const TOGETHER: u64 = 65;

/// The algorithms with more tokens than needed, and with one token.
fn algorithms() -> [(&'static str, Quota, Quota); 5] {
    [
        ("bucket", Quota::per_day(4_000_000_000), Quota::per_day(1)),
        (
            "interval bucket",
            Quota::interval_bucket(4_000_000_000, 4_000_000_000, DAY),
            Quota::interval_bucket(1, 1, DAY),
        ),
        (
            "fixed window",
            Quota::fixed_window(4_000_000_000, AGE),
            Quota::fixed_window(1, AGE),
        ),
        (
            "sliding window",
            Quota::sliding_window(4_000_000_000, AGE),
            Quota::sliding_window(1, AGE),
        ),
        (
            "sliding log",
            Quota::sliding_log(65_535, AGE),
            Quota::sliding_log(1, AGE),
        ),
    ]
}

fn builder() -> RedisBuilder {
    RedisBackend::builder()
        .deny_cache(Duration::ZERO)
        .time_limit(Duration::from_secs(20))
}

async fn connect(server: &RedisServer, builder: RedisBuilder) -> RedisBackend {
    let client = redis::Client::open(server.url()).expect("a URL");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    builder.from_transport(RedisConnection::new(connection.await.expect("a server")))
}

fn number(key: u64) -> Key {
    Key::from(key)
}

/// The calls of each command, and the µs in scripts, since the last read.
#[derive(Debug)]
struct CommandUsage {
    calls: BTreeMap<String, u64>,
    micros: u64,
}

impl CommandUsage {
    fn of(server: &RedisServer) -> Self {
        let stats: String = server.get(&["INFO", "commandstats"]);
        let mut usage = Self {
            calls: BTreeMap::new(),
            micros: 0,
        };
        for line in stats.lines() {
            let Some((name, numbers)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            let field = |name: &str| -> u64 {
                let field = numbers
                    .split(',')
                    .find_map(|field| field.strip_prefix(name));
                field.expect("a field").parse().expect("a number")
            };
            // The test's own commands.
            if ["info", "config", "client", "ping", "hello"]
                .contains(&name.split('|').next().unwrap_or(name))
            {
                continue;
            }
            if name == "evalsha" {
                usage.micros = field("usec=");
            }
            usage.calls.insert(name.to_owned(), field("calls="));
        }
        let _: Value = server.get(&["CONFIG", "RESETSTAT"]);
        usage
    }

    /// Prints the cost of one of `count` operations, and checks that exactly these commands were sent.
    fn is(&self, what: &str, count: u64, expected: &[(&str, u64)]) {
        let each = |calls: u64| calls as f64 / count as f64;
        let reported: Vec<_> = self
            .calls
            .iter()
            .map(|(name, calls)| format!("{name} {}", (each(*calls) * 1e3).round() / 1e3))
            .collect();
        let micros = each(self.micros);
        // Written past the capture of the test harness: a passing run also shows the costs.
        writeln!(
            std::io::stderr(),
            "{what:<40} {micros:>6.1} µs  {}",
            reported.join(", ")
        )
        .expect("stderr");
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, calls)| ((*name).to_owned(), *calls))
            .collect();
        assert_eq!(self.calls, expected, "{what}, {count} of them");
    }

    fn is_each(&self, what: &str, expected: &[(&str, u64)]) {
        let all: Vec<_> = expected
            .iter()
            .map(|(name, calls)| (*name, calls * TIMES))
            .collect();
        self.is(what, TIMES, &all);
    }
}

/// Runs all of them at once, over one connection.
async fn all<T>(
    asked: impl IntoIterator<Item = impl Future<Output = Result<T, BackendError>>>,
) -> Vec<T> {
    try_join_all(asked).await.expect("Redis answers")
}

#[tokio::test]
async fn each_decision_sends_the_expected_commands() {
    let server = RedisServer::start();
    let backend = connect(&server, builder().batching(false)).await;
    let ann = Key::from("ann");
    for (index, (name, plenty, one)) in algorithms().into_iter().enumerate() {
        let is_log = index == 4;
        let limiter = Limiter::new(Policy::new("plenty", plenty), backend.clone());
        let _ = all([limiter.check(&ann, 1)]).await;
        let _ = CommandUsage::of(&server);
        // A longer log packs its entries into chunks now and then.
        let times = if is_log { 200 } else { TIMES };
        let replies = all((0..times).map(|_| limiter.check(&ann, 1))).await;
        assert!(replies.iter().all(|reply| reply.decision.is_allowed()));
        let string = [("evalsha", 1), ("time", 1), ("get", 1), ("set", 1)];
        // The oldest entry, and the newest.
        let log = [
            ("evalsha", 1),
            ("time", 1),
            ("llen", 1),
            ("lindex", 2),
            ("rpush", 1),
            ("pexpire", 1),
        ];
        let allowed: &[_] = if is_log { &log } else { &string };
        let allowed: Vec<_> = allowed
            .iter()
            .map(|(name, calls)| (*name, calls * times))
            .collect();
        CommandUsage::of(&server).is(&format!("{name}, allowed"), times, &allowed);

        let limiter = Limiter::new(Policy::new("one", one), backend.clone());
        let _ = all([limiter.check(&ann, 1)]).await;
        let _ = CommandUsage::of(&server);
        let replies = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
        assert!(!replies.iter().any(|reply| reply.decision.is_allowed()));
        let string = [("evalsha", 1), ("time", 1), ("get", 1)];
        let log = [("evalsha", 1), ("time", 1), ("llen", 1), ("lindex", 2)];
        let denied: &[_] = if is_log { &log } else { &string };
        CommandUsage::of(&server).is_each(&format!("{name}, denied"), denied);
    }
}

#[tokio::test]
async fn a_batch_reads_the_time_once() {
    let server = RedisServer::start();
    let backend = connect(&server, builder()).await;
    for (index, (name, plenty, one)) in algorithms().into_iter().enumerate() {
        for (policy, quota, spent) in [("plenty", plenty, false), ("one", one, true)] {
            let limiter = Limiter::new(Policy::new(policy, quota), backend.clone());
            let keys: Vec<_> = (0..TOGETHER).map(number).collect();
            let ask = || join_all(keys.iter().map(|key| limiter.check(key, 1)));
            let _: Vec<_> = ask().await;
            let _ = CommandUsage::of(&server);
            let rounds = 20;
            for _ in 0..rounds {
                for reply in ask().await {
                    assert_eq!(reply.expect("Redis").decision.is_allowed(), !spent);
                }
            }
            let count = rounds * TOGETHER;
            let trips = [("evalsha", 2 * rounds), ("time", 2 * rounds)];
            let mut expected = trips.to_vec();
            match (index == 4, spent) {
                (false, false) => expected.extend([("get", count), ("set", count)]),
                (false, true) => expected.push(("get", count)),
                (true, false) => expected.extend([
                    ("llen", count),
                    ("lindex", 2 * count),
                    ("rpush", count),
                    ("pexpire", count),
                ]),
                (true, true) => expected.extend([("llen", count), ("lindex", 2 * count)]),
            }
            let word = if spent { "denied" } else { "allowed" };
            CommandUsage::of(&server).is(&format!("{name}, {word}, of a batch"), count, &expected);
        }
        let _: Value = server.get(&["FLUSHALL"]);
        let _ = CommandUsage::of(&server);
    }
}

#[tokio::test]
async fn each_operation_sends_the_expected_commands() {
    let server = RedisServer::start();
    let backend = connect(&server, builder().batching(false)).await;
    let ann = Key::from("ann");
    let [(_, bucket, one), (_, interval, _), (_, fixed, _), ..] = algorithms();
    let three = Policy::new("three", bucket)
        .and("interval", interval)
        .and("fixed", fixed);
    let limiter = Limiter::new(three, backend.clone());
    let _ = all([limiter.check(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
    let writes = [("evalsha", 1), ("time", 1), ("get", 3), ("set", 3)];
    CommandUsage::of(&server).is_each("three quotas, allowed", &writes);

    let denying = Policy::new("refuse", bucket)
        .and("one", one)
        .and("fixed", fixed);
    let limiter = Limiter::new(denying, backend.clone());
    let _ = all([limiter.check(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all((0..TIMES).map(|_| limiter.check(&ann, 1))).await;
    let looks = [("evalsha", 1), ("time", 1), ("get", 3)];
    CommandUsage::of(&server).is_each("three quotas, denied", &looks);

    let write = [("evalsha", 1), ("time", 1), ("get", 1), ("set", 1)];
    let limiter = Limiter::new(Policy::new("turns", one), backend.clone());
    let keys: Vec<_> = (0..=TIMES).map(number).collect();
    let later = async |key: &Key| limiter.reserve(key, 1, 9 * DAY).await;
    // The second reservation of each key is due a day later.
    let _ = all(keys.iter().map(later)).await;
    let _ = CommandUsage::of(&server);
    let reservations = all(keys[1..].iter().map(later)).await;
    CommandUsage::of(&server).is_each("a reservation", &write);
    let first = all([later(&keys[0])]).await.into_iter();
    let mut reservations = first.chain(reservations).map(|reply| {
        assert!(reply.wait > Duration::ZERO);
        reply.reservation.expect("a reservation")
    });
    let warm = reservations.next().expect("the first");
    assert!(limiter.cancel(&keys[0], warm).await.expect("Redis"));
    let _ = CommandUsage::of(&server);
    let back = all(keys[1..]
        .iter()
        .zip(reservations)
        .map(|(key, reservation)| limiter.cancel(key, reservation)))
    .await;
    assert!(back.into_iter().all(|back| back));
    CommandUsage::of(&server).is_each("a cancelled reservation", &write);

    let limiter = Limiter::new(Policy::new("plenty", bucket), backend.clone());
    let mut replies = all((0..=TIMES).map(|_| limiter.check(&ann, 2))).await;
    let mut receipts = replies
        .iter_mut()
        .map(|reply| reply.receipt.as_mut().expect("of a charge"));
    let warm = receipts.next().expect("the first");
    let _ = all([limiter.refund(&ann, warm, 1)]).await;
    let _ = all([limiter.penalize(&ann, 1)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all(receipts.map(|receipt| limiter.refund(&ann, receipt, 1))).await;
    CommandUsage::of(&server).is_each("a refund", &write);
    let _ = all((0..TIMES).map(|_| limiter.penalize(&ann, 1))).await;
    CommandUsage::of(&server).is_each("a penalty", &write);
    let _ = all((0..TIMES).map(|_| limiter.peek(&ann))).await;
    let look = [("evalsha", 1), ("time", 1), ("get", 1)];
    CommandUsage::of(&server).is_each("a snapshot", &look);

    let limiter = Limiter::new(Policy::new("turns", one), backend);
    let _ = all([limiter.reset(&ann)]).await;
    let _ = CommandUsage::of(&server);
    let _ = all(keys[1..].iter().map(|key| limiter.reset(key))).await;
    let reset = [("evalsha", 1), ("time", 1), ("get", 1), ("del", 1)];
    CommandUsage::of(&server).is_each("a reset", &reset);
}

/// The expiry of a key with this debt, by SEMANTICS.
fn millis(reset_after: Duration) -> u64 {
    let micros = u64::try_from(reset_after.as_micros()).expect("fits");
    micros.div_ceil(1_000) + 1_000
}

fn ttl(server: &RedisServer) -> i64 {
    let keys = server.keys();
    assert_eq!(keys.len(), 1, "{keys:?}");
    server.get(&["PTTL", &keys[0]])
}

/// Little time has passed since the first write of the key.
fn assert_ttl(server: &RedisServer, expected: u64, what: &str) {
    assert_ttl_within(server, expected, 0, what);
}

/// The key is kept for as long as it is needed, and for at most `more` ms longer.
fn assert_ttl_within(server: &RedisServer, expected: u64, more: i64, what: &str) {
    let (left, expected) = (ttl(server), i64::try_from(expected).expect("fits"));
    assert!(left > 0, "{what}: it never expires: {left}");
    // The server counts expiry in ms, from the start of the command.
    assert!(
        (expected - 700..=expected + more + 100).contains(&left),
        "{what}: {left} of {expected}"
    );
}

async fn expires_as_it_should(
    server: &RedisServer,
    backend: RedisBackend,
    floor: u64,
    quotas: &[Quota],
) {
    for quota in quotas {
        let limiter = Limiter::new(Policy::new("api", *quota), backend.clone());
        let ann = Key::from("ann");
        let expected = |reset_after| millis(reset_after).max(floor);
        let mut reply = limiter.check(&ann, 3).await.expect("Redis");
        let after = reply.decision.snapshot().reset_after();
        assert_ttl(server, expected(after), &format!("{quota}, charged"));
        let after = limiter
            .penalize(&ann, 20)
            .await
            .expect("Redis")
            .reset_after();
        assert_ttl(server, expected(after), &format!("{quota}, penalized"));
        let before = ttl(server);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let denied = limiter.check(&ann, 1).await.expect("Redis");
        assert!(!denied.decision.is_allowed());
        let _ = limiter.peek(&ann).await.expect("Redis");
        assert!(
            ttl(server) <= before - 25,
            "{quota}: a denial or a peek extended the expiry"
        );
        // No refund shortens an earlier expiry.
        let mut longest = after;
        let receipt = reply.receipt.as_mut().expect("of a charge");
        let after = limiter.refund(&ann, receipt, 2).await.expect("Redis");
        assert!(after.reset_after() <= longest);
        assert_ttl(server, expected(longest), &format!("{quota}, refunded"));
        let reservation = limiter.reserve(&ann, 1, 99 * DAY).await.expect("Redis");
        longest = longest.max(reservation.decision.snapshot().reset_after());
        if let Some(reservation) = reservation.reservation {
            // A charge of a known key sets an expiry that is up to a second later.
            let longest = expected(longest);
            assert_ttl_within(server, longest, 1_000, &format!("{quota}, reserved"));
            assert!(limiter.cancel(&ann, reservation).await.expect("Redis"));
            assert_ttl_within(server, longest, 1_000, &format!("{quota}, cancelled"));
        }
        let _ = limiter.reset(&ann).await.expect("Redis");
        assert!(server.keys().is_empty());
        // Nothing is owed, and the key keeps its earlier expiry.
        let mut reply = limiter.check(&ann, 3).await.expect("Redis");
        let charged = reply.decision.snapshot().reset_after();
        let receipt = reply.receipt.as_mut().expect("of a charge");
        let _ = limiter.refund(&ann, receipt, 3).await.expect("Redis");
        if !server.keys().is_empty() {
            let what = format!("{quota}, all refunded");
            assert_ttl(server, expected(charged), &what);
        }
        let _ = limiter.reset(&ann).await.expect("Redis");
    }
}

/// Minutes and days. The last algorithm is the only one that needs scripts.
fn ten() -> [Quota; 5] {
    [
        Quota::per_minute(10),
        Quota::interval_bucket(10, 1, DAY),
        Quota::fixed_window(10, AGE),
        Quota::sliding_window(10, AGE),
        Quota::sliding_log(10, AGE),
    ]
}

#[tokio::test]
async fn every_key_expires_a_second_after_nothing_is_owed() {
    let server = RedisServer::start();
    let backend = connect(&server, builder()).await;
    expires_as_it_should(&server, backend, 0, &ten()).await;
    let optimistic = builder()
        .atomicity(Atomicity::Optimistic)
        .connect(server.url())
        .await;
    expires_as_it_should(&server, optimistic.expect("a server"), 0, &ten()[..4]).await;
}

#[tokio::test]
async fn idle_ttl_lengthens_expiry_and_never_shortens_it() {
    let server = RedisServer::start();
    for hours in [1, 30] {
        let floor = Duration::from_secs(hours * 3_600);
        let backend = connect(&server, builder().idle_ttl(floor)).await;
        let millis = hours * 3_600_000;
        expires_as_it_should(&server, backend, millis, &ten()).await;
        let optimistic = builder().idle_ttl(floor).atomicity(Atomicity::Optimistic);
        let optimistic = optimistic.connect(server.url()).await.expect("a server");
        expires_as_it_should(&server, optimistic, millis, &ten()[..4]).await;
    }
}

#[tokio::test]
async fn bucket_below_capacity_at_start_is_kept_for_the_idle_ttl() {
    let server = RedisServer::start();
    let ann = Key::from("ann");
    let hour = Duration::from_secs(3_600);
    for atomicity in [Atomicity::Script, Atomicity::Optimistic] {
        for (idle, millis) in [(None, 86_400_000), (Some(hour), 3_600_000)] {
            let mut builder = builder().atomicity(atomicity);
            if let Some(idle) = idle {
                builder = builder.idle_ttl(idle);
            }
            let backend = builder.connect(server.url()).await.expect("a server");
            for quota in [Quota::per_minute(10), Quota::interval_bucket(10, 1, DAY)] {
                let policy = Policy::new("api", quota.initial_tokens(2));
                let limiter = Limiter::new(policy, backend.clone());
                let reply = limiter.check(&ann, 2).await.expect("Redis");
                let filled = self::millis(reply.decision.snapshot().reset_after());
                assert_ttl(&server, filled + millis, &format!("{quota}, {atomicity:?}"));
                let _ = limiter.reset(&ann).await.expect("Redis");
                // Its first check creates it, even if it is denied.
                let reply = limiter.check(&ann, 5).await.expect("Redis");
                assert!(!reply.decision.is_allowed());
                let filled = self::millis(reply.decision.snapshot().reset_after());
                assert_ttl(
                    &server,
                    filled + millis,
                    &format!("{quota}, {atomicity:?}, denied"),
                );
                let _ = limiter.reset(&ann).await.expect("Redis");
            }
        }
    }
}
